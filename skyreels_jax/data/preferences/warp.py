"""Looking up a clip between its frames and between its pixels: linear interpolation, numpy only."""

import numpy as np
from jaxtyping import Float, UInt8

Clip = UInt8[np.ndarray, "F H W 3"]


def at_times(clip: Clip, times: Float[np.ndarray, " F"]) -> Clip:
    """Returns the frames of `clip` at `times`, in frames; beyond its ends the film runs back.

    Whole times give the frames themselves; others a mixture of the two neighbours.
    """
    last = len(clip) - 1
    times = last - np.abs(np.mod(times, 2 * last) - last) if last else np.zeros_like(times)
    low = np.clip(np.floor(times), 0, max(last - 1, 0)).astype(int)
    share = (times - low).astype(np.float32)
    made = np.empty_like(clip)
    for t, (index, part) in enumerate(zip(low, share, strict=True)):
        first, second = clip[index].astype(np.float32), clip[min(index + 1, last)]
        made[t] = np.rint(first + part * (second - first))
    return made


def displaced(clip: Clip, offsets: Float[np.ndarray, "F #H #W 2"]) -> Clip:
    """Returns `clip` with each pixel taken from (row, column) `offsets` away, in pixels.

    Bilinear; beyond the border its pixels are repeated.
    """
    height, width = clip.shape[1:3]
    made = np.empty_like(clip)
    shape = (height, width)
    for t, offset in enumerate(offsets):
        row = np.clip(np.arange(height)[:, None] + offset[..., 0], 0, height - 1)
        column = np.clip(np.arange(width)[None, :] + offset[..., 1], 0, width - 1)
        row, column = np.broadcast_to(row, shape), np.broadcast_to(column, shape)
        top, left = row.astype(int), column.astype(int)  # not negative, so this is the floor
        below, right = np.minimum(top + 1, height - 1), np.minimum(left + 1, width - 1)
        down = (row - top).astype(np.float32)[..., None]
        across = (column - left).astype(np.float32)[..., None]
        upper = clip[t, top, left] * (1 - across) + clip[t, top, right] * across
        lower = clip[t, below, left] * (1 - across) + clip[t, below, right] * across
        made[t] = np.rint(upper * (1 - down) + lower * down)
    return made


def smooth_noise(
    rng: np.random.Generator, shape: tuple[int, int, int], knots: tuple[int, int, int]
) -> Float[np.ndarray, "F H W"]:
    """Returns noise of `shape` that is smooth: unit Gaussian at `knots` points evenly spaced along
    each axis, linear between them."""
    field = rng.standard_normal(knots).astype(np.float32)
    for axis, (size, points) in enumerate(zip(shape, knots, strict=True)):
        place = np.linspace(0, points - 1, size)
        low = np.minimum(place.astype(int), max(points - 2, 0))
        high = np.minimum(low + 1, points - 1)
        share = (place - low).astype(np.float32)
        share = share.reshape([-1 if a == axis else 1 for a in range(3)])
        first, second = np.take(field, low, axis), np.take(field, high, axis)
        field = first + share * (second - first)
    return field
