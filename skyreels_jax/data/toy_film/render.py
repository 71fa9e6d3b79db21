"""Renders a scene into pixels: numpy only, deterministic, any number of frames."""

import numpy as np
from jaxtyping import Float, UInt8

from skyreels_jax.data.toy_film import world
from skyreels_jax.data.toy_film.panorama import SUBJECT_LIGHT, SUPERSAMPLE, panorama
from skyreels_jax.data.toy_film.world import FPS, SIZE, Paths, Scene

EDGE = 1.2  # pixels over which the subject's edge rises
COLOUR = {
    "red": (232, 34, 40),
    "yellow": (255, 214, 10),
    "green": (16, 190, 62),
    "cyan": (10, 216, 226),
    "blue": (26, 54, 255),
    "magenta": (236, 30, 206),
}


def subject_colour(colour: str, lighting: str) -> Float[np.ndarray, "3"]:
    """Returns the subject's (red, green, blue), 0..255, under a light."""
    return np.asarray(COLOUR[colour], np.float32) * np.asarray(SUBJECT_LIGHT[lighting], np.float32)


def signed_distance(shape: str, dx: np.ndarray, dy: np.ndarray, radius: np.ndarray) -> np.ndarray:
    """Returns the signed distance (pixels, negative inside) to a shape's outline from its centre.

    ring: outer radius r, inner r / 2. square: half side 0.88 r. triangle: upright, equilateral,
    circumradius 1.15 r, centred on its bounding box.
    """
    if shape == "ring":
        return np.abs(np.sqrt(dx * dx + dy * dy) - 0.75 * radius) - 0.25 * radius
    if shape == "square":
        return np.maximum(np.abs(dx), np.abs(dy)) - 0.88 * radius
    inner = 0.575 * radius  # the inscribed circle's radius is half the circumradius
    dy = dy - 0.2875 * radius  # from the box's centre to the centroid
    return np.maximum(0.8660254 * np.abs(dx) - 0.5 * dy, dy) - inner


def subject_alpha(
    shape: str,
    centre: Float[np.ndarray, "T 2"],
    radius: Float[np.ndarray, " T"],
    *,
    size: int = SIZE,
) -> Float[np.ndarray, "T size size"]:
    """Returns the subject's share of every pixel; `centre` and `radius` are in world pixels."""
    unit = SIZE / size
    grid = ((np.arange(size) + 0.5) * unit).astype(np.float32)
    dx = grid[None, None, :] - centre[:, 0, None, None].astype(np.float32)
    dy = grid[None, :, None] - centre[:, 1, None, None].astype(np.float32)
    distance = signed_distance(shape, dx, dy, radius[:, None, None].astype(np.float32))
    return np.clip(0.5 - distance / max(EDGE, unit), 0, 1)


def background(
    scene: Scene, paths: Paths, *, size: int = SIZE
) -> Float[np.ndarray, "T size size 3"]:
    """Returns the background (0..255) along `paths`: bilinear, from the panorama."""
    strip = panorama(scene.environment, scene.lighting)
    pixel = (np.arange(size) + 0.5) * SIZE / size - world.CENTRE
    offsets = pixel[None, :] / paths.scale[:, None] + world.CENTRE
    shift = paths.shift[:, None] + scene.offset
    rows = SUPERSAMPLE * offsets - 0.5
    columns = SUPERSAMPLE * (offsets + shift) - 0.5
    if np.ptp(rows, axis=0).max() == 0:  # no zoom: blend the rows once for all frames
        blended = _lerp(strip, np.clip(rows[0], 0, len(strip) - 1))
        return np.moveaxis(_lerp(np.moveaxis(blended, 1, 0), columns), 1, 2)
    frames_out = np.empty((len(rows), size, size, 3), np.float32)
    for t, (row, column) in enumerate(zip(rows, columns, strict=True)):
        blended = _lerp(strip, np.clip(row, 0, len(strip) - 1))
        frames_out[t] = np.moveaxis(_lerp(np.moveaxis(blended, 1, 0), column), 0, 1)
    return frames_out


def _lerp(values: np.ndarray, index: np.ndarray) -> np.ndarray:
    """Interpolates `values` linearly along its leading, periodic axis at positions `index`."""
    low = np.floor(index).astype(np.int64)
    share = (index - low).astype(np.float32).reshape(index.shape + (1,) * (values.ndim - 1))
    first = np.take(values, low, axis=0, mode="wrap")
    second = np.take(values, low + 1, axis=0, mode="wrap")
    second -= first
    second *= share
    second += first
    return second


def render(
    scene: Scene, num_frames: int, *, size: int = SIZE, start: int = 0, fps: int = FPS
) -> UInt8[np.ndarray, "T size size 3"]:
    """Renders frames start, ..., start + num_frames - 1 of `scene` at `size` x `size` pixels.

    fps: frames a second; the world goes on at its own pace, so that more of them show it slower.
    """
    frames = np.arange(start, start + num_frames)
    if fps != FPS:
        frames = frames * (FPS / fps)
    return draw(scene, world.paths(scene, frames), size=size)


def draw(scene: Scene, paths: Paths, *, size: int = SIZE) -> UInt8[np.ndarray, "T size size 3"]:
    """Renders the subject and the place of `scene`, moving along `paths`."""
    film = background(scene, paths, size=size)
    alpha = subject_alpha(scene.shape, paths.centre, paths.radius, size=size)[..., None]
    film += alpha * (subject_colour(scene.colour, scene.lighting) - film)
    film += 0.5
    return film.astype(np.uint8)
