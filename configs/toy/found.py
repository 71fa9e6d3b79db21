"""The model that learns to move well: the miniature, fine-tuned on clips of which many move badly.

Supervised fine-tuning on clips that are balanced in what they show, and have one frame rate, but
are as found in how they move: 80 % of them hardly move, stop, or shake, whatever their captions
say. Films made without guidance then differ widely in how they move, and preferences have something
to choose from; with guidance, and other faults, they hardly did (docs/log.md).

Command:  skyreels-jax train --config configs/toy/found.py   (after nothing: it starts from "tiny")
Hardware: 2 CPU cores, float32; 30 minutes on one of them, 9 for clips and latents.
Result:   runs/toy/found/export, a diffusers SkyReelsV2Pipeline folder. The first run renders and
          encodes the clips.
"""

import pathlib

import ml_collections

from skyreels_jax.cli.train import read_config

HERE = pathlib.Path(__file__).parent
TINY = HERE.parents[1] / "skyreels_jax" / "assets" / "tiny"


def get_config() -> ml_collections.ConfigDict:
    config = ml_collections.ConfigDict(read_config(str(HERE / "pretrain.py")))
    config.start = "tiny"
    config.out = "runs/toy/found"
    config.data.update({"clips": 2000, "faults": 0.8, "latents": "runs/toy/latents_found"})
    config.data.vae = str(TINY / "vae")
    config.stages = ({"steps": 500, "batch": 16},)
    config.optimizer.learning_rate = config.optimizer.adam_learning_rate = 6e-4
    config.optimizer.warmup_steps = 25
    config.optimizer.decay_start = 0.4
    config.ema_decay = 0.98
    return config
