"""ToyFilm's clips as the recipes read them."""

import pathlib

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8
from tqdm import tqdm

from skyreels_jax.data.loader import Source
from skyreels_jax.data.toy_film.render import render
from skyreels_jax.data.toy_film.world import sample_scene
from skyreels_jax.training.config import DataConfig


class Rendered:
    def __init__(self, config: DataConfig):
        path = (
            pathlib.Path(config.folder) / f"{config.split}-{config.clips}-{config.num_frames}.npy"
        )
        self.split = config.split
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            part = path.with_suffix(".partial")
            array = np.lib.format.open_memmap(
                part, "w+", np.uint8, (config.clips, config.num_frames, 64, 64, 3)
            )
            for i in tqdm(range(config.clips), desc="render"):
                array[i] = render(sample_scene(i, config.split), config.num_frames)
            array.flush()
            part.rename(path)
        self.array = np.load(path, mmap_mode="r")

    def __len__(self):
        return len(self.array)

    def __getitem__(self, index):
        return {"video": self.array[index]}


def source(config: DataConfig) -> Source:
    return Rendered(config)


def to_float(video: UInt8[Array, "B T H W 3"]) -> Float[Array, "B T H W 3"]:
    """Returns 8-bit pixels as float32 in [-1, 1]."""
    return video.astype(jnp.float32) / 127.5 - 1.0
