"""Diffusion forcing: 540p, a time of its own for every latent frame; films of any length.

Command:  skyreels-jax train --config configs/film/diffusion_forcing_540p.py:14b
          (in the paper motion learning lies before it: --set start=RUN)
Hardware: that of pretrain_540p.py.
Result:   runs/film-14b/diffusion_forcing_540p.

By the paper: times that never fall from first to last frame (FoPP), from the full-sequence model.
Our choice, since the paper does not say:
- the mixture with prefixes and equal times (objectives/diffusion_forcing.py says why, and which
  shares); frames have pretraining's density of times and its shift, since they are as large;
- the learning rate and batch of pretraining at this size, for half of its steps: the task is new,
  other than in fine-tuning, and the picture is not;
- the clips of fine-tuning and their balance, so as not to unlearn them; its rate that falls to
  nothing; weight decay as before.
"""

import pathlib

import ml_collections

from skyreels_jax.cli.train import read_config

BEFORE = pathlib.Path(__file__).with_name("sft_540p.py")


def get_config(size: str = "1.3b") -> ml_collections.ConfigDict:
    config = ml_collections.ConfigDict(read_config(f"{BEFORE}:{size}"))
    config.start, config.out = config.out, f"runs/film-{size}/diffusion_forcing_540p"
    config.objective.name = "diffusion_forcing"
    config.optimizer.adam_learning_rate = 2e-5
    config.stages = ({"steps": 20_000, "batch": 128, "frames": 97, "resolution": "540p"},)
    return config
