"""Pretraining at 256p once the loss has settled: half the learning rate, and weight decay.

Command:  skyreels-jax train --config configs/film/pretrain_256p_settled.py:14b
          (from the run of pretrain_256p.py, or another one: --set start=RUN)
Hardware: that of pretrain_256p.py.
Result:   runs/film-14b/pretrain_256p_settled.

By the paper: learning rate 5e-5, weight decay 1e-4. Our choice, since the paper does not say: half
the steps of before; a short warm-up, since the averages of Adam begin anew but the weights do not.
"""

import pathlib

import ml_collections

from skyreels_jax.cli.train import read_config

BEFORE = pathlib.Path(__file__).with_name("pretrain_256p.py")


def get_config(size: str = "1.3b") -> ml_collections.ConfigDict:
    config = ml_collections.ConfigDict(read_config(f"{BEFORE}:{size}"))
    config.start, config.out = config.out, f"runs/film-{size}/pretrain_256p_settled"
    config.optimizer.adam_learning_rate = 5e-5
    config.optimizer.weight_decay = 1e-4
    config.optimizer.warmup_steps = 200
    config.stages[0]["steps"] = 100_000
    return config
