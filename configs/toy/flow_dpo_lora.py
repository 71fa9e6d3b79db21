"""Motion learning with adapters: as flow_dpo.py, but the miniature's own weights stay as they are.

They are held once, for the learner and for its reference, which is the adapters as they were at the
start of a stage; optimiser, average and checkpoints hold adapters only. All stages train the same
adapters upon the same weights.

Command:  skyreels-jax train --config configs/toy/flow_dpo_lora.py   (after found.py and reward.py)
Hardware: 2 CPU cores, float32; how long it takes is not measured yet.
Result:   runs/toy/flow_dpo_lora/export, a diffusers SkyReelsV2Pipeline folder with the adapters
          merged, and the adapter alone in it, lora/pytorch_lora_weights.safetensors, for
          `generate --lora` upon the model of found.py, or diffusers. What it gains, and the
          learning rate that suits it, are not measured yet.
"""

import pathlib

import ml_collections

from skyreels_jax.cli.train import read_config

WHOLE = pathlib.Path(__file__).with_name("flow_dpo.py")


def get_config() -> ml_collections.ConfigDict:
    config = ml_collections.ConfigDict(read_config(str(WHOLE)))
    config.out = "runs/toy/flow_dpo_lora"
    config.preferences.share = 1.0
    config.lora = {"rank": 16, "alpha": 16.0}
    config.optimizer.learning_rate = config.optimizer.adam_learning_rate = 1e-3
    return config
