"""Pretraining, first stage: 256p, images and videos of all lengths and shapes, from nothing.

Command:  skyreels-jax train --config configs/film/pretrain_256p.py:14b      (1.3b: the smaller one)
          after, for each of your machines (--part I/N),
          skyreels-jax data encode --videos DIR --model MODEL --resolution 256p --num_frames 97 \\
              --data_dir features/256p
          with any released model: its VAE and text encoder stay as they are. Without images among
          your own: --set data.images=0.
Hardware: what `skyreels-jax plan` says of it (docs/scaling.md).
Result:   runs/film-14b/pretrain_256p, from which pretrain_256p_settled.py goes on.

By the paper (arXiv 2504.13074): AdamW, learning rate 1e-4, no weight decay, until the loss has
settled; images and videos together; the fps embedding for clips of 16 and of 24 frames a second;
logit-normal times; only the transformer is trained. Sizes: those of Wan2.1, which the paper takes.

Our choice, since the paper does not say:
- the times' mean and deviation, 0 and 1: the plain ones of Esser et al. 2024 (arXiv 2403.03206);
- one caption in ten dropped: what guidance needs, and what most do;
- betas 0.9 and 0.95, gradients of norm 1 at most, 1,000 steps of warm-up, then a constant rate: as
  usual for models of this size; the rate falls in the next stage;
- weights averaged over the last 10,000 steps: films are made with these;
- 512 clips: six million tokens a step, as in all of pretraining;
- 200,000 steps: a hundred million clips, as many as the paper has before it filters. Its own
  measure, a loss that has settled, is to be looked for in metrics.csv;
- 97 frames at most, the length of the released 540p models, so that later stages need no longer
  ones; which shapes and lengths go together is told in data/buckets.py;
- a fifth of the steps on images: enough to profit from their variety, and most of the time on what
  the model is for.
How devices share the work (mesh, bfloat16, remat) changes speed and memory; docs/scaling.md.
"""

import ml_collections

from skyreels_jax.core.config import suggest
from skyreels_jax.core.errors import UserError

SIZES = {
    "1.3b": {"num_attention_heads": 12, "ffn_dim": 8960, "num_layers": 30},
    "14b": {"num_attention_heads": 40, "ffn_dim": 13824, "num_layers": 40},
}


def get_config(size: str = "1.3b") -> ml_collections.ConfigDict:
    if size not in SIZES:
        raise UserError(f"no model of this size: {size}{suggest(size, SIZES)}")
    return ml_collections.ConfigDict(
        {
            "kind": "text_to_video",
            "out": f"runs/film-{size}/pretrain_256p",
            "seed": 0,
            "model": {
                "transformer": {**SIZES[size], "inject_sample_info": True},
                "text_encoder": None,  # its states are made ahead
            },
            "objective": {"name": "flow_matching", "times": "logit_normal", "caption_dropout": 0.1},
            "data": {"features": "features/256p", "images": 0.2},
            "stages": ({"steps": 200_000, "batch": 512, "frames": 97, "resolution": "256p"},),
            "optimizer": {
                "name": "adam",
                "adam_learning_rate": 1e-4,
                "adam_b2": 0.95,
                "weight_decay": 0.0,
                "warmup_steps": 1000,
                "decay_start": 1.0,
            },
            "compute_dtype": "bfloat16",
            "remat": "attention",
            "ema_decay": 0.9999,
            # 14B: what a device holds of a clip's tokens is a part as well.
            "mesh": {"fsdp": -1, "context": 8 if size == "14b" else 1},
            "log_every": 20,
            "save_every": 500,
            "keep": 3,
        }
    )
