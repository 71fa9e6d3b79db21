"""The miniature of stories made causal: blocks of three latent frames see no later ones.

With it every finished block can be kept as keys and values and is never computed again.

Command:  skyreels-jax train --config configs/toy/causal.py   (after stories.py)
Hardware: 2 CPU cores, float32; a step costs what one of diffusion_forcing.py does.
Result:   runs/toy/causal/export, a diffusers folder whose transformer has num_frame_per_block 3.
"""

import pathlib

import ml_collections

from skyreels_jax.cli.train import read_config

STORIES = pathlib.Path(__file__).with_name("stories.py")
BLOCK = 3  # latent frames; divides the 9 of a window


def get_config() -> ml_collections.ConfigDict:
    config = ml_collections.ConfigDict(read_config(str(STORIES)))
    config.start = config.out
    config.out = "runs/toy/causal"
    config.model.transformer.num_frame_per_block = BLOCK
    config.objective.causal_block_size = BLOCK
    config.stages = ({"steps": 1200, "batch": 16, "frames": 33},)
    return config
