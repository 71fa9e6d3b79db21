"""First fine-tuning: 540p, chosen clips of 24 frames a second, balanced by what they show.

Command:  skyreels-jax train --config configs/film/sft_540p.py:14b
          after skyreels-jax data encode ... --resolution 540p --data_dir features/540p_chosen
          of captions with a "subject_type": without it there is nothing to balance.
Hardware: that of pretrain_540p.py.
Result:   runs/film-14b/sft_540p, without the fps embedding: what it adds at 24 frames a second
          has become part of a bias.

By the paper: clips of 24 frames a second alone, balanced by the types of their subjects, no fps
embedding, the loss of pretraining. Our choice, since the paper does not say:
- half the learning rate of pretraining, which falls to nothing: the weights shall move little, and
  end where steps are small; weight decay as before, which at this rate does hardly anything;
- half its tokens a step and 5,000 steps, 320,000 clips: chosen sets are small;
- all types of subjects alike: the paper says of the balance that it took people from 85 to 63 % of
  the clips, and no more (data.balance.shares sets other shares).
"""

import pathlib

import ml_collections

from skyreels_jax.cli.train import read_config

BEFORE = pathlib.Path(__file__).with_name("pretrain_540p.py")


def get_config(size: str = "1.3b") -> ml_collections.ConfigDict:
    config = ml_collections.ConfigDict(read_config(f"{BEFORE}:{size}"))
    config.start, config.out = config.out, f"runs/film-{size}/sft_540p"
    config.model.transformer.inject_sample_info = False
    config.optimizer.adam_learning_rate = 1e-5
    config.optimizer.decay_start = 0.5
    config.data.update({"features": "features/540p_chosen", "fps": 24})
    config.data.balance = {"attribute": "subject_type"}
    config.stages = ({"steps": 5_000, "batch": 64, "frames": 97, "resolution": "540p"},)
    return config
