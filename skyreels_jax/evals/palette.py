"""Place and light of a ToyFilm, and which pixels are no background: by colour."""

import functools

import numpy as np
from jaxtyping import Float, Int, UInt8

from skyreels_jax.data.toy_film import world
from skyreels_jax.data.toy_film.panorama import strip_image

_CAP = 90.0  # levels; a pixel further off than this says no more than one that far
_BITS = 3  # colours are looked up in cells of 8 levels


def place_and_light(frames: UInt8[np.ndarray, "T 64 64 3"]) -> tuple[str, str]:
    """Returns (environment, lighting): the panorama whose rows the film's pixels are nearest to.

    Every fourth pixel is compared with the mean colour of its row in each of the 12 panoramas; a
    distance beyond a cap counts as the cap, so that a subject covering part of the frame adds the
    same to all twelve.
    """
    pixels = frames[:: max(1, len(frames) // 12), :, ::4].astype(np.float32)
    scores = {}
    for environment in world.ENVIRONMENTS:
        for lighting in world.LIGHTINGS:
            gap = pixels - _row_means(environment, lighting)[:, None, :]
            distance = np.minimum(np.sqrt(np.sum(gap * gap, axis=-1)), _CAP)
            scores[environment, lighting] = float(distance.mean())
    return min(scores, key=scores.get)


@functools.cache
def _row_means(environment: str, lighting: str) -> Float[np.ndarray, "64 3"]:
    return strip_image(environment, lighting).astype(np.float32).mean(1)


def colour_cells(frames: UInt8[np.ndarray, "T H W 3"]) -> Int[np.ndarray, "T H W"]:
    """Returns the number of each pixel's cell of colour: an index into `distances` tables."""
    cell = (frames >> _BITS).astype(np.int32)
    bits = 8 - _BITS
    return (cell[..., 0] << 2 * bits) + (cell[..., 1] << bits) + cell[..., 2]


@functools.cache
def background_distances(environment: str, lighting: str) -> Float[np.ndarray, " cells"]:
    """Returns how far (Euclidean, levels) each cell is from the nearest colour of a panorama."""
    strip = strip_image(environment, lighting).reshape(-1, 3)
    return distances(np.unique(strip // 6, axis=0) * 6.0 + 3.0).min(1)


def distances(colours: Float[np.ndarray, "N 3"]) -> Float[np.ndarray, "cells N"]:
    """Returns the Euclidean distance of every cell of colour to each of some colours, in levels."""
    levels = (np.arange(256 >> _BITS) + 0.5) * (1 << _BITS)
    cells = np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), -1).reshape(-1, 3)
    squares = (cells**2).sum(1)[:, None] - 2 * cells @ colours.T + (colours**2).sum(1)[None]
    return np.sqrt(np.maximum(squares, 0)).astype(np.float32)
