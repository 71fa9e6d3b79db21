"""Where every part of a frame has gone some frames later: matching by colour, no parameters.

The cost volume of optical-flow networks (Dosovitskiy et al. 2015, Sun et al. 2018), reduced on the
spot to what a matcher would say of it. What is seen of motion then hangs neither on colours nor on
places, so that a few thousand pairs are enough to learn from (docs/log.md).
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

Cells = Float[Array, "B T h w 3"]
CHANNELS = 5
# ToyFilm's colours differ by 0.3 and more in a channel from -1 to 1, what a decoder does by 0.1.
TEMPERATURE = 0.04
SLACK = 0.02  # where nothing tells, nothing has moved
FLOOR = 4e-3  # squared distance below which parts are alike


def mean_cells(video: Float[Array, "B T H W 3"], cell: int) -> Cells:
    """Returns the mean of every `cell` x `cell` pixels."""
    batch, frames, height, width, channels = video.shape
    cut = (batch, frames, height // cell, cell, width // cell, cell, channels)
    return video.reshape(cut).mean(axis=(3, 5))


def matches(first: Cells, second: Cells, *, reach: int) -> Float[Array, "B T h w 5"]:
    """Returns, of every cell of `first`, what is found of it in `second`, up to `reach` cells away.

    Channels: rows and columns it has moved by, in units of `reach` (the mean over all places, the
    likelier the more alike 3 x 3 cells there are); how unlike its own place and the best one are
    (logarithms, scaled to about -1 to 1); and how likely it is that it has not moved.
    """
    side = 2 * reach + 1
    around = ((0, 0), (0, 0), (reach, reach), (reach, reach), (0, 0))
    padded = jnp.pad(second, around, mode="edge")
    zero = jnp.zeros(first.shape[:-1], first.dtype)

    def look(place: Array, found: tuple[Array, ...]) -> tuple[Array, ...]:
        total, rows, columns, least = found
        row, column = place // side, place % side
        there = jax.lax.dynamic_slice(padded, (0, 0, row, column, 0), first.shape)
        cost = _smooth(jnp.square(there - first).sum(axis=-1))
        down, right = ((n - reach).astype(first.dtype) for n in (row, column))
        likely = jnp.exp(-cost / TEMPERATURE - SLACK * (down * down + right * right))
        moved = (rows + likely * down, columns + likely * right)
        return (total + likely, *moved, jnp.minimum(least, cost))

    # The first term keeps parts that are found nowhere where they were.
    start = (zero + 1e-6, zero, zero, zero + jnp.inf)
    total, rows, columns, least = jax.lax.fori_loop(0, side * side, look, start)
    stayed = _smooth(jnp.square(second - first).sum(axis=-1))
    unlike = [jnp.log(cost + FLOOR) / 3 + 1 for cost in (stayed, least)]
    moved = [rows / total / reach, columns / total / reach]
    return jnp.stack([*moved, *unlike, jnp.exp(-stayed / TEMPERATURE) / total], axis=-1)


def mirrored(found: Float[Array, "B T h w ..."], axis: int) -> Array:
    """Returns what `matches` finds of films that are mirrored: upside down (axis 2) or left for
    right (axis 3). What has moved along the axis has moved the other way.
    """
    return jnp.flip(found, axis).at[..., axis - 2].multiply(-1)


def _smooth(cost: Float[Array, "B T h w"]) -> Float[Array, "B T h w"]:
    """Returns the mean of every 3 x 3 cells, those at the border being repeated."""
    for axis in (2, 3):
        pad = [(0, 0)] * 4
        pad[axis] = (1, 1)
        wide = jnp.pad(cost, pad, mode="edge")
        size = cost.shape[axis]
        cost = sum(jax.lax.slice_in_dim(wide, i, i + size, axis=axis) for i in range(3)) / 3
    return cost
