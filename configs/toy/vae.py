"""The miniature's video VAE, trained on ToyFilm.

Command:  skyreels-jax train --config configs/toy/vae.py
Hardware: 2 CPU cores, float32; 0.32 s, 0.48 s, then 0.88 s a step: an hour.
Result:   runs/toy/vae/export/vae, a diffusers AutoencoderKLWan folder.
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
    return ml_collections.ConfigDict(
        {
            "kind": "vae",
            "out": "runs/toy/vae",
            "seed": 0,
            "model": {
                "base_dim": 8,
                "dim_mult": (1, 2, 4, 8),
                "num_res_blocks": 1,
                "z_dim": 16,
                "temperal_downsample": (False, True, True),
                "latents_mean": (0.0,) * 16,
                "latents_std": (1.0,) * 16,
            },
            "objective": {"gradient_weight": 0.5, "kl_weight": 3e-3},
            "data": {"folder": "runs/data", "split": "train", "clips": 6000, "captions": 8},
            # Small crops first: most of what a VAE has to learn is local, and a step costs a fifth.
            # Whole clips last: the causal decoder reaches back further than 17 frames, and drifts
            # where it was never trained (docs/log.md).
            "stages": (
                {"steps": 4000, "batch": 4, "frames": 9, "size": 32},
                {"steps": 900, "batch": 1, "frames": 17, "size": 64},
                {"steps": 2000, "batch": 1},
            ),
            "optimizer": {
                "name": "muon",
                "learning_rate": 3e-3,
                "adam_learning_rate": 3e-3,
                "warmup_steps": 50,
                "decay_start": 0.0,
                "decay": "cosine",
            },
            "log_every": 25,
            "save_every": 500,
        }
    )
