"""Diffusion forcing: the miniature learns a time of its own for every latent frame.

It still makes single films, and continues them: long films carry their latents from window to
window, so it is also trained on windows from the middle of clips twice as long, always behind a
clean prefix. Laws of motion and captions hold for frames of any number.

Command:  skyreels-jax train --config configs/toy/diffusion_forcing.py   (after pretrain.py)
Hardware: 2 CPU cores, float32; a step costs what one of whole clips in pretrain.py does.
Result:   runs/toy/diffusion_forcing/export, a diffusers SkyReelsV2DiffusionForcingPipeline folder.
The first run renders and encodes the longer clips (17 latents each, 139 MB).
"""

import pathlib

import ml_collections

from skyreels_jax.cli.train import read_config

PRETRAIN = pathlib.Path(__file__).with_name("pretrain.py")


def get_config() -> ml_collections.ConfigDict:
    config = ml_collections.ConfigDict(read_config(str(PRETRAIN)))
    config.start = config.out
    config.out = "runs/toy/diffusion_forcing"
    config.objective.name = "diffusion_forcing"
    # More equal times than by default: the model must keep making films in one go.
    config.objective.update({"fopp": 0.4, "prefix": 0.2, "equal": 0.4})
    config.data.update(
        {"clips": 4000, "num_frames": 65, "middle": 0.35, "latents": "runs/toy/latents_long"}
    )
    config.stages = ({"steps": 2000, "batch": 16, "frames": 33},)
    config.optimizer.learning_rate = config.optimizer.adam_learning_rate = 6e-4
    config.optimizer.decay_start = 0.3
    return config
