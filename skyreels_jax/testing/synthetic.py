"""A training run of a large transformer with random weights, which is nowhere in memory."""

import dataclasses
import pathlib
import zlib
from typing import Any

import jax
import numpy as np

from skyreels_jax.checkpoint import Leaf, write_checkpoint
from skyreels_jax.core.config import to_dict
from skyreels_jax.core.tree import path_name
from skyreels_jax.models import layout
from skyreels_jax.models.dit.config import DiTConfig
from skyreels_jax.testing.micro import micro_configs, random_params


def write_synthetic_run(run: pathlib.Path, transformer: DiTConfig) -> int:
    """Writes the folder of a text_to_video run with one checkpoint; returns the bytes of the
    largest leaf in it, which is all layers of something.

    The other models have few weights, and the widths that go with `transformer`.
    """
    configs = micro_configs()
    channels, width = transformer.in_channels, transformer.text_dim
    statistics = {"latents_mean": (0.0,) * channels, "latents_std": (1.0,) * channels}
    vae = dataclasses.replace(configs["vae"], z_dim=channels, **statistics)
    layout.save_component(run / "vae", "vae", vae, random_params("vae", vae))
    text_encoder = dataclasses.replace(configs["text_encoder"], d_model=width)
    models = {"transformer": transformer, "text_encoder": text_encoder}
    leaves = {name: _leaves(name, config) for name, config in models.items()}
    config = {
        "kind": "text_to_video",
        "model": {name: to_dict(config) for name, config in models.items()},
        "data": {"vae": str(run / "vae"), "num_frames": 9, "middle": 0.0},
        "stages": [{"frames": 0}],
        "flow_shift": 3.0,
    }
    write_checkpoint(run / "checkpoints", leaves, config=config)
    return max(4 * leaf.size for leaf in jax.tree.leaves(leaves))


def _leaves(name: str, config: Any) -> Any:
    def leaf(path: tuple, like: Any) -> Leaf:
        seed = zlib.crc32(path_name(path).encode())

        def draw(index: tuple[int, ...]) -> np.ndarray:
            random = np.random.default_rng([seed, *index])
            return random.standard_normal(like.shape[len(index) :], np.float32)

        return Leaf(shape=like.shape, dtype=np.dtype(np.float32), read=draw)

    return jax.tree_util.tree_map_with_path(leaf, layout.abstract_model(name, config)[1])
