"""Last fine-tuning: 720p, the best clips, with the loss of diffusion forcing.

Command:  skyreels-jax train --config configs/film/sft_720p.py:14b
          after skyreels-jax data encode ... --resolution 720p --num_frames 121 \\
              --data_dir features/720p_chosen
Hardware: that of pretrain_540p.py; about as long a step (a quarter of the clips, of twice the
          tokens).
Result:   runs/film-14b/sft_720p.

By the paper: the same losses, clips filtered by hand and balanced, 720p; of up to 121 frames, as
the released models make. Our choice, since the paper does not say: the learning rate, weight decay,
steps and tokens a step of sft_540p.py, for its reasons; that the loss is diffusion forcing's alone
("the same losses" may mean both); a shift of times of 2.8, as in pretrain_360p.py.
"""

import pathlib

import ml_collections

from skyreels_jax.cli.train import read_config

BEFORE = pathlib.Path(__file__).with_name("diffusion_forcing_540p.py")


def get_config(size: str = "1.3b") -> ml_collections.ConfigDict:
    config = ml_collections.ConfigDict(read_config(f"{BEFORE}:{size}"))
    config.start, config.out = config.out, f"runs/film-{size}/sft_720p"
    config.objective.shift = 2.8
    config.optimizer.adam_learning_rate = 1e-5
    config.data.features = "features/720p_chosen"
    config.stages = ({"steps": 5_000, "batch": 32, "frames": 121, "resolution": "720p"},)
    return config
