"""The miniature itself: diffusion transformer and text encoder, trained together on latents.

Command:  skyreels-jax train --config configs/toy/pretrain.py     (after configs/toy/vae.py)
Hardware: 2 CPU cores, float32; 0.65 s a step of either stage: 80 minutes.
Result:   runs/toy/pretrain/export, a diffusers SkyReelsV2Pipeline folder (scores: docs/log.md).
The first run encodes the clips (7 minutes).
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
    width = 192
    return ml_collections.ConfigDict(
        {
            "kind": "text_to_video",
            "out": "runs/toy/pretrain",
            "seed": 0,
            "model": {
                "transformer": {
                    "patch_size": (1, 2, 2),
                    "num_attention_heads": 6,
                    "attention_head_dim": 32,
                    "in_channels": 16,
                    "out_channels": 16,
                    "text_dim": 128,
                    "freq_dim": 256,
                    "ffn_dim": 4 * width,
                    "num_layers": 6,
                },
                # vocab_size is the tokenizer's.
                "text_encoder": {
                    "d_model": 128,
                    "d_kv": 32,
                    "d_ff": 256,
                    "num_layers": 2,
                    "num_heads": 4,
                },
            },
            "objective": {"times": "uniform", "shift": 2.5, "caption_dropout": 0.1},
            "data": {
                "folder": "runs/data",
                "split": "train",
                "clips": 6000,
                "latents": "runs/toy/latents",
                "vae": "runs/toy/vae/export/vae",
                "captions": 8,
            },
            # Half clips first: they show every attribute, at half the price.
            "stages": (
                {"steps": 1500, "batch": 24, "frames": 17},
                {"steps": 6000, "batch": 16},
            ),
            "optimizer": {
                "name": "muon",
                "learning_rate": 2e-3,
                "adam_learning_rate": 2e-3,
                "warmup_steps": 100,
                "decay_start": 0.5,
                "decay": "linear",
                "muon_iterations": 3,
                "policies": (
                    {"paths": ".*patch_embedding/kernel", "adam": True},
                    {"paths": ".*head/kernel", "adam": True},
                ),
            },
            "ema_decay": 0.999,
            "flow_shift": 3.0,
            "log_every": 25,
            "save_every": 500,
        }
    )
