"""ToyFilm's clips as the recipes read them."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, UInt8

from skyreels_jax.data.loader import Source
from skyreels_jax.data.selection import Group, describe, grouped, keep_rate
from skyreels_jax.data.toy_film.world import ATTRIBUTES, NO_SPEED
from skyreels_jax.training.config import DataConfig

# Values of attributes that clips have; a still subject has a speed too.
LEGAL = ATTRIBUTES | {"speed": (*ATTRIBUTES["speed"], NO_SPEED)}


def source(config: DataConfig, *, split: str = "", pixels: bool = True) -> Source:
    """Returns random access to the clips of a split (default: `config.split`).

    They have the features of the TFDS builder.
    `pixels=False` leaves "video" as the bytes on disk, for whoever reads captions only.
    What is missing on disk is rendered first, with a progress bar.
    """
    import tensorflow_datasets as tfds

    from skyreels_jax.data.toy_film.toy_film_dataset_builder import toy_film

    builder = toy_film(
        config.folder,
        num_clips=config.clips,
        num_frames=config.num_frames,
        num_sentences=config.captions,
        turns=config.turns,
        faults=config.faults,
        rates=config.rates,
    )
    builder.download_and_prepare()
    decoders = None if pixels else {"video": tfds.decode.SkipDecoding()}
    return builder.as_data_source(split=split or config.split, decoders=decoders)


def groups(config: DataConfig) -> list[Group]:
    """Returns which clips of `source(config)` are drawn and how often, and prints it; none: all of
    them alike.

    Raises `UserError` for names that the world does not know, and where no clip is left.
    """
    balance = config.balance
    if not (config.fps or balance.attribute):
        return []
    targets = balance.targets(LEGAL) if balance.attribute else {}
    kept = keep_rate(rates(config), config.fps)
    if config.fps:
        print(f"{len(kept):,} of {config.clips:,} clips have {config.fps} frames a second")
    if not targets:
        return [Group("all", 1.0, kept)]
    texts = source(config, pixels=False)
    values = [texts[index][balance.attribute].decode() for index in range(len(texts))]
    found = grouped(values, targets, kept)
    print(f"{balance.attribute}: {describe(found)}")
    return found


def rates(config: DataConfig) -> Int[np.ndarray, " N"]:
    """Returns the frames a second of every clip of `source(config)`."""
    texts = source(config, pixels=False)
    if len(config.rates) == 1:
        return np.full(len(texts), config.rates[0])
    return np.array([int(texts[index]["fps"]) for index in range(len(texts))])


def turns(config: DataConfig) -> Int[np.ndarray, " N"]:
    """Returns the frame with which every clip of `source(config)` turns, 0 for none."""
    texts = source(config, pixels=False)
    return np.array([int(texts[index]["turn"]) for index in range(len(texts))])


def to_float(video: UInt8[Array, "B T H W 3"]) -> Float[Array, "B T H W 3"]:
    """Returns 8-bit pixels as float32 in [-1, 1]."""
    return video.astype(jnp.float32) / 127.5 - 1.0
