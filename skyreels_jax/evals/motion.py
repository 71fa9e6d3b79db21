"""How the subject moves: the law of the world that its track follows best, by least squares."""

import numpy as np
from jaxtyping import Float, Int

from skyreels_jax.data.toy_film import world
from skyreels_jax.data.toy_film.world import (
    BOUNCE_HEIGHT,
    BOUNCE_PERIOD,
    CENTRE,
    NO_SPEED,
    WALLS,
)

# Where a path may begin: at or behind the middle, seen in its direction (mirrored for left, up).
_STARTS = np.arange(WALLS[0] - 4, CENTRE + 2.25, 0.5)
_WALL_OFF = 4.0  # pixels


def judge_motion(
    centre: Float[np.ndarray, "T 2"], frames: Int[np.ndarray, " T"]
) -> tuple[str, str, float]:
    """Returns (direction, speed, root mean square error in pixels) of the law nearest to a track.

    `centre` holds (x, y) at the frame numbers `frames` of the film (NaN: not seen). Each law has a
    free position; straight paths turn at the walls as the world's do, and bouncing may
    be up to 40 % higher or lower.
    """
    seen = ~np.isnan(centre[:, 0])
    track, frames = centre[seen], frames[seen]
    spread = ((track - track.mean(0)) ** 2).mean(0)  # error, per axis, of standing still
    errors = {("still", NO_SPEED): spread.sum()}
    for speed in world.SPEEDS:
        wave = np.cos(2 * np.pi * frames / BOUNCE_PERIOD[speed])
        wave -= wave.mean()
        height = (wave @ track[:, 1]) / max(wave @ wave, 1e-6)
        height = np.clip(height, 0.3 * BOUNCE_HEIGHT, 0.7 * BOUNCE_HEIGHT)
        rest = track[:, 1] - track[:, 1].mean() - height * wave
        errors["bounce", speed] = spread[0] + (rest**2).mean()
        for direction, axis, sign in (
            ("left", 0, -1),
            ("right", 0, 1),
            ("up", 1, -1),
            ("down", 1, 1),
        ):
            # Mirrored, so that every path is one that starts by moving to the right.
            forward = CENTRE + sign * (track[:, axis] - CENTRE)
            error = _straight(forward, world.PIXELS_PER_FRAME[speed] * frames)
            errors[direction, speed] = spread[1 - axis] + error
    direction, speed = min(errors, key=errors.get)
    return direction, speed, float(np.sqrt(errors[direction, speed]))


def _straight(track: np.ndarray, travel: np.ndarray) -> float:
    """Returns the mean squared error of the path from the best start, turning at the walls."""
    start = np.clip(_STARTS, *WALLS)  # a start beyond a wall: the same path, shifted
    paths = world.triangle_wave(start[:, None] + travel[None], *WALLS) + (_STARTS - start)[:, None]
    if travel.max() <= WALLS[1] - WALLS[0]:  # a short film need not turn, wherever it is
        paths = np.concatenate([paths, ((track - travel).mean() + travel)[None]])
    return float(((paths - track[None]) ** 2).mean(1).min())


def judge_lasting_motion(centre: Float[np.ndarray, "T 2"]) -> tuple[str, str, float]:
    """Returns (direction, speed, root mean square error in pixels) of a track from anywhere in a
    film.

    As `judge_motion`, but no law knows when it began: bouncing may be at any height at first, and
    straight paths anywhere on their way to a wall and back ("horizontal", "vertical"), the walls
    up to four pixels from where they should be.
    """
    frames = np.flatnonzero(~np.isnan(centre[:, 0]))
    track = centre[frames]
    spread = ((track - track.mean(0)) ** 2).mean(0)
    errors = {("still", NO_SPEED): spread.sum()}
    for speed in world.SPEEDS:
        phase = 2 * np.pi * frames / BOUNCE_PERIOD[speed]
        errors["bounce", speed] = spread[0] + _bounce(track[:, 1], phase)
        travel = world.PIXELS_PER_FRAME[speed] * frames
        for axis, direction in enumerate(("horizontal", "vertical")):
            errors[direction, speed] = spread[1 - axis] + _to_and_fro(track[:, axis], travel)
    direction, speed = min(errors, key=errors.get)
    return direction, speed, float(np.sqrt(errors[direction, speed]))


def _bounce(height: np.ndarray, phase: np.ndarray) -> float:
    """Returns the mean squared error of the nearest wave of legal size, at any phase."""
    waves = np.stack([np.ones(len(phase)), np.cos(phase), np.sin(phase)], axis=1)
    level, *wave = np.linalg.lstsq(waves, height, rcond=None)[0]
    size = np.hypot(*wave)
    legal = np.clip(size, 0.3 * BOUNCE_HEIGHT, 0.7 * BOUNCE_HEIGHT)
    rest = height - waves[:, 1:] @ (np.asarray(wave) * legal / max(size, 1e-6))
    return float(((rest - rest.mean()) ** 2).mean())


def _to_and_fro(track: np.ndarray, travel: np.ndarray) -> float:
    """Returns the mean squared error of the best path between the walls, from any start."""
    low, high = WALLS
    starts = np.arange(low, 2 * high - low, 0.5)  # the second half: on the way back
    paths = world.triangle_wave(starts[:, None] + travel[None], low, high)
    gap = track[None] - paths
    gap = gap - np.clip(gap.mean(1, keepdims=True), -_WALL_OFF, _WALL_OFF)
    return float((gap**2).mean(1).min())
