"""Pretraining, third stage: 540p, videos alone.

Command:  skyreels-jax train --config configs/film/pretrain_540p.py:14b
          after skyreels-jax data encode ... --resolution 540p --data_dir features/540p
Hardware: that of pretrain_256p.py, for longer.
Result:   runs/film-14b/pretrain_540p.

By the paper: learning rate 2e-5, videos alone. Our choice, since the paper does not say, for the
reasons in pretrain_360p.py: weight decay as before, half its clips a step, fewer steps, a shift of
times of 2.1. Clips of up to 97 frames are those of the released models.
"""

import pathlib

import ml_collections

from skyreels_jax.cli.train import read_config

BEFORE = pathlib.Path(__file__).with_name("pretrain_360p.py")


def get_config(size: str = "1.3b") -> ml_collections.ConfigDict:
    config = ml_collections.ConfigDict(read_config(f"{BEFORE}:{size}"))
    config.start, config.out = config.out, f"runs/film-{size}/pretrain_540p"
    config.objective.shift = 2.1
    config.data.update({"features": "features/540p", "images": 0.0})
    config.stages = ({"steps": 40_000, "batch": 128, "frames": 97, "resolution": "540p"},)
    return config
