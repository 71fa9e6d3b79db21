"""Pretraining, second stage: 360p, images and videos.

Command:  skyreels-jax train --config configs/film/pretrain_360p.py:14b
          after skyreels-jax data encode ... --resolution 360p --data_dir features/360p
          (without images among your own: --set data.images=0)
Hardware: that of pretrain_256p.py.
Result:   runs/film-14b/pretrain_360p.

By the paper: learning rate 2e-5, images and videos. Our choice, since the paper does not say: the
weight decay of the stage before; as many tokens a step as there, so half the clips, for fewer
steps, since what moves is learned by now and detail is not; images in a fifth of the steps as
before; a shift of times of 1.4, the root of how many more tokens a frame has, so that as much of
the picture is lost at a time as at 256p (Esser et al. 2024, arXiv 2403.03206).
"""

import pathlib

import ml_collections

from skyreels_jax.cli.train import read_config

BEFORE = pathlib.Path(__file__).with_name("pretrain_256p_settled.py")


def get_config(size: str = "1.3b") -> ml_collections.ConfigDict:
    config = ml_collections.ConfigDict(read_config(f"{BEFORE}:{size}"))
    config.start, config.out = config.out, f"runs/film-{size}/pretrain_360p"
    config.optimizer.adam_learning_rate = 2e-5
    config.objective.shift = 1.4
    config.data.features = "features/360p"
    config.stages = ({"steps": 60_000, "batch": 256, "frames": 97, "resolution": "360p"},)
    return config
