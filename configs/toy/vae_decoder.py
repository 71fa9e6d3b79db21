"""Second run of the miniature's VAE: the decoder alone, on whole clips, the latents fixed.

The first run sees at most 17 frames; its encoder is steady beyond them, its decoder drifts.

Command:  skyreels-jax train --config configs/toy/vae_decoder.py     (after configs/toy/vae.py)
Hardware: 2 CPU cores, float32.
Result:   runs/toy/vae_decoder/export/vae, a diffusers folder with the same encoder.
"""

import pathlib

import ml_collections

from skyreels_jax.cli.train import read_config

FIRST_RUN = pathlib.Path(__file__).with_name("vae.py")


def get_config() -> ml_collections.ConfigDict:
    config = ml_collections.ConfigDict(read_config(str(FIRST_RUN)))
    config.start = config.out
    config.out = "runs/toy/vae_decoder"
    config.stages = ({"steps": 600, "batch": 1},)
    config.optimizer.frozen = ("encoder/.*", "quant_conv/.*")
    config.optimizer.learning_rate = config.optimizer.adam_learning_rate = 1.5e-3
    return config
