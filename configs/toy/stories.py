"""Stories: the forcing miniature learns to follow prompts that change while a film goes on.

Half of its clips turn into another scene; it sees what was before the turn, and the caption of what
comes after it. Without them a film goes on as it moved before, whatever the new prompt says.

Command:  skyreels-jax train --config configs/toy/stories.py   (after diffusion_forcing.py)
Hardware: 2 CPU cores, float32; a step costs what one of diffusion_forcing.py does.
Result:   runs/toy/stories/export, a diffusers SkyReelsV2DiffusionForcingPipeline folder.
The first run renders and encodes its clips (3,000 of 17 latents, 104 MB).
"""

import pathlib

import ml_collections

from skyreels_jax.cli.train import read_config

FORCING = pathlib.Path(__file__).with_name("diffusion_forcing.py")


def get_config() -> ml_collections.ConfigDict:
    config = ml_collections.ConfigDict(read_config(str(FORCING)))
    config.start = config.out
    config.out = "runs/toy/stories"
    config.data.update({"clips": 3000, "turns": 0.5, "latents": "runs/toy/latents_stories"})
    config.stages = ({"steps": 3000, "batch": 16, "frames": 33},)
    config.optimizer.learning_rate = config.optimizer.adam_learning_rate = 5e-4
    return config
