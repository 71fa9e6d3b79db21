"""A pretraining as found data would have it: rings are rare, and clips have two frame rates.

The miniature of pretrain.py, shorter, on clips of 12 and 16 frames a second, which it is told apart
by the fps embedding. The clips themselves are as balanced as ever; what is unbalanced is how often
each shape is drawn. As on the web, rings are rarely met, and rarely the same one twice.

Command:  skyreels-jax train --config configs/toy/pretrain_unbalanced.py   (after vae.py)
Hardware: 2 CPU cores, float32; 3,500 steps in 39 minutes.
Result:   runs/toy/unbalanced/export, a diffusers SkyReelsV2Pipeline folder that knows rings worse
          than squares and triangles (docs/motion_rl.md). The first run renders the clips and
          encodes them.
"""

import pathlib

import ml_collections

from skyreels_jax.cli.train import read_config

PRETRAIN = pathlib.Path(__file__).with_name("pretrain.py")
SHARES = {"square": 0.56, "triangle": 0.40, "ring": 0.04}


def get_config() -> ml_collections.ConfigDict:
    config = ml_collections.ConfigDict(read_config(str(PRETRAIN)))
    config.out = "runs/toy/unbalanced"
    config.model.transformer.inject_sample_info = True
    config.data.update({"rates": (12, 16), "latents": "runs/toy/latents_rates"})
    config.data.balance = {"attribute": "shape", "shares": SHARES}
    config.stages = (
        {"steps": 1500, "batch": 24, "frames": 17},
        {"steps": 2000, "batch": 16},
    )
    return config
