"""Balanced supervised fine-tuning: every shape alike, one frame rate, no fps embedding.

As SkyReels-V2 does at 540p after pretraining: the same loss on concept-balanced clips of 24 frames
a second only (here 12), from where on there is no fps embedding. What it adds at that rate becomes
part of a bias, so that the model starts unchanged.

Command:  skyreels-jax train --config configs/toy/sft.py   (after pretrain_unbalanced.py)
          What it changed, concept by concept:
          skyreels-jax evaluate --benchmark concepts --by shape --num 384 --outdir eval/sft \\
              --setting "before: model=runs/toy/unbalanced/export" \\
              --setting "after: model=runs/toy/sft/export"
          The same steps without balance, to compare with:
          skyreels-jax train --config configs/toy/sft.py --out runs/toy/sft_unbalanced \\
              --set "data.balance.shares={'square': 0.56, 'triangle': 0.40, 'ring': 0.04}"
Hardware: 2 CPU cores, float32; a step costs what one of whole clips in pretrain.py does.
Result:   runs/toy/sft/export, a diffusers SkyReelsV2Pipeline folder: rings right in 0.35 of films
          instead of 0.05, mean adherence 0.93 instead of 0.89 (docs/motion_rl.md).
"""

import pathlib

import ml_collections

from skyreels_jax.cli.train import read_config

UNBALANCED = pathlib.Path(__file__).with_name("pretrain_unbalanced.py")


def get_config() -> ml_collections.ConfigDict:
    config = ml_collections.ConfigDict(read_config(str(UNBALANCED)))
    config.start = config.out
    config.out = "runs/toy/sft"
    config.model.transformer.inject_sample_info = False
    config.data.fps = 12
    config.data.balance = {"attribute": "shape"}
    config.stages = ({"steps": 1600, "batch": 16},)
    config.optimizer.learning_rate = config.optimizer.adam_learning_rate = 1.2e-3
    config.optimizer.decay_start = 0.3
    return config
