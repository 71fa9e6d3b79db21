"""How the camera moves: pairs of frames are registered, subject masked, by pans and by zooms."""

import numpy as np
from jaxtyping import Float, UInt8

from skyreels_jax.data.toy_film import world
from skyreels_jax.data.toy_film.world import CENTRE, SIZE

RATES = (0.25, 0.5, 0.75, 1.0, 1.25, 1.5)  # multiples of the world's own rate that are tried
MOVING = 0.5  # from this multiple on, the camera counts as moving
_GAPS = (4, 8, 14)  # frames between the two of a pair
_PAIRS = 4  # of each gap, at most


def judge_camera(
    frames: UInt8[np.ndarray, "T 64 64 3"],
    cover: Float[np.ndarray, "T 64 64"],
    *,
    start: int = 0,
) -> tuple[str, float, float]:
    """Returns (camera_motion, rate, residual).

    For each motion of the world and multiple of its rate, the earlier frame of a pair is moved as
    the camera would move it and compared with the later one where both show background; the least
    mean error over all pairs wins. `rate` is the winning multiple (0 when static) and `residual`
    the root mean square error in levels. `start` is the film's frame number of frames[0].
    """
    pair = _pairs(frames, cover)
    if pair is None:
        return "static", 0.0, 0.0
    early, late, first, second = pair
    errors = {("static", 0.0): _error(first, second)}
    for motion in world.CAMERA_MOTIONS[1:]:
        for rate in RATES:
            moved = _move(first, motion, rate, early + start, late + start)
            errors[motion, rate] = _error(moved, second)
    return _verdict(errors)


def judge_lasting_camera(
    frames: UInt8[np.ndarray, "T 64 64 3"], cover: Float[np.ndarray, "T 64 64"]
) -> tuple[str, int, float]:
    """Returns (camera_motion, clock, residual) of frames from anywhere in a film.

    As `judge_camera`, but zooms in and out are one motion, "zoom", which turns every ZOOM_FRAMES:
    `clock` is the frame number at which frames[0] fits it best as a zoom in.
    """
    pair = _pairs(frames, cover)
    if pair is None:
        return "static", 0, 0.0
    early, late, first, second = pair
    errors = {("static", 0.0): _error(first, second)}
    for motion in ("pan_left", "pan_right"):
        for rate in RATES:
            errors[motion, rate] = _error(_move(first, motion, rate, early, late), second)

    def zoom_error(clock: int, rate: float) -> float:
        return _error(_move(first, "zoom_in", rate, early + clock, late + clock), second)

    coarse = range(0, 2 * int(world.ZOOM_FRAMES), 4)
    clock = min(coarse, key=lambda c: zoom_error(c, 1.0))
    clock = min(range(clock - 2, clock + 3), key=lambda c: zoom_error(c, 1.0))
    errors |= {("zoom", rate): zoom_error(clock, rate) for rate in RATES}
    motion, _, residual = _verdict(errors)
    return motion, clock, residual


def _verdict(errors: dict[tuple[str, float], float]) -> tuple[str, float, float]:
    motion, rate = min(errors, key=errors.get)
    residual = float(np.sqrt(errors[motion, rate]))
    return (motion, rate, residual) if rate >= MOVING else ("static", 0.0, residual)


def _pairs(
    frames: np.ndarray, cover: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray] | None:
    """Returns the numbers of the earlier and later frames of pairs, and these at half size with
    a fourth channel that says what is background; None if there are too few frames for any."""
    pairs = []
    for gap in _GAPS:
        count = len(frames) - gap
        if count > 0:
            firsts = np.unique(np.linspace(0, count - 1, min(_PAIRS, count)).astype(int))
            pairs += [(t, t + gap) for t in firsts]
    if not pairs:
        return None
    early, late = np.array(pairs).T
    moving = np.unique(np.concatenate([early, late]))
    clear = {t: 1.0 - np.clip(1.5 * _grown(cover[t]), 0, 1) for t in moving}
    # Half size removes noise too.
    half = {t: _half(np.concatenate([frames[t], clear[t][..., None]], -1)) for t in moving}
    return early, late, np.stack([half[t] for t in early]), np.stack([half[t] for t in late])


def _grown(cover: np.ndarray) -> np.ndarray:
    """Spreads the mask by two pixels: the subject's soft rim is no background."""
    grown = cover
    for axis in (0, 1):
        steps = [np.roll(grown, s, axis) for s in (-2, -1, 1, 2)]
        grown = np.maximum.reduce([grown, *steps])
    return grown


def _half(image: np.ndarray) -> np.ndarray:
    side = SIZE // 2
    return image.astype(np.float32).reshape(side, 2, side, 2, -1).mean((1, 3))


def _move(
    images: np.ndarray, motion: str, rate: float, early: np.ndarray, late: np.ndarray
) -> np.ndarray:
    """Moves images [P, 32, 32, 4] as the camera, `rate` times as fast, would; outside is 0."""
    pixel = 2.0 * np.arange(SIZE // 2) + 1.0
    scale = (world.zoom_scale(motion, late) / world.zoom_scale(motion, early)) ** rate
    shift = rate * (world.pan_shift(motion, late) - world.pan_shift(motion, early))
    rows = CENTRE + (pixel - CENTRE)[None] / scale[:, None]
    columns = rows + shift[:, None]
    if np.any(scale != 1):
        images = _resample(images, rows)
    return np.swapaxes(_resample(np.swapaxes(images, 1, 2), columns), 1, 2)


def _resample(images: np.ndarray, position: np.ndarray) -> np.ndarray:
    """Linear interpolation along axis 1 of [P, L, M, C] at world positions [P, L]; 0 outside."""
    index = (position - 1.0) / 2.0
    inside = (index >= 0) & (index <= images.shape[1] - 1)
    low = np.clip(np.floor(index), 0, images.shape[1] - 2).astype(int)
    share = (index - low).astype(np.float32)[:, :, None, None]
    p = np.arange(len(images))[:, None]
    return ((1 - share) * images[p, low] + share * images[p, low + 1]) * inside[..., None, None]


def _error(first: np.ndarray, second: np.ndarray) -> float:
    weight = (first[..., 3] > 0.9) & (second[..., 3] > 0.9)
    squares = ((first[..., :3] - second[..., :3]) ** 2).mean(-1)
    per_pair = (squares * weight).sum((1, 2)) / np.maximum(weight.sum((1, 2)), 1)
    return float(per_pair.mean())
