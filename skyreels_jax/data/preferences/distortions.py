"""Distorted twins: from a clip that moves well, one that differs from it in motion alone.

The rejected side of SkyReels-V2's automatic pairs (arXiv 2504.13074, section on reinforcement
learning) in pixels; what only a model can make is in `model_kinds.MODEL_KINDS`. A distortion is
`(clip, strength, rng) -> clip`. Its random draws do not depend on the strength, so that with one
seed a stronger one is further from the original.
"""

import zlib
from collections.abc import Callable

import numpy as np

from skyreels_jax.core.config import suggest
from skyreels_jax.core.errors import UserError
from skyreels_jax.data.preferences.warp import Clip, at_times, displaced, smooth_noise

Distortion = Callable[[Clip, float, np.random.Generator], Clip]

SHAKE = 0.06  # of the smaller side: the standard deviation of the strongest jitter
BEND = 0.08  # of the smaller side: that of the strongest morphing
LONGEST_HOLD = 8  # frames for which the strongest stutter stands still
STALE = 4  # frames by which damaged details are late: one latent frame


def time_reversal(clip: Clip, strength: float, rng: np.random.Generator) -> Clip:
    """Runs backwards for the first `strength` of the clip, then forwards; 1: all backwards.

    Models violations of physics: the paper reverses time. No frame is left out or mixed, and there
    is no cut.
    """
    start = round(strength * (len(clip) - 1))
    return at_times(clip, np.abs(start - np.arange(len(clip), dtype=float)))


def too_fast(clip: Clip, strength: float, rng: np.random.Generator) -> Clip:
    """Runs 1 + `strength` times as fast, and back from the last frame on.

    Models excessive motion: the paper samples frames at an altered rate.
    """
    return at_times(clip, (1 + strength) * np.arange(len(clip)))


def too_slow(clip: Clip, strength: float, rng: np.random.Generator) -> Clip:
    """Runs at 1 - 7/8 `strength` of the speed.

    Models insufficient motion: the paper samples frames at an altered rate.
    """
    return at_times(clip, (1 - 0.875 * strength) * np.arange(len(clip)))


def freeze(clip: Clip, strength: float, rng: np.random.Generator) -> Clip:
    """Stands still for the last `strength` of the clip; 1: a still.

    Models insufficient motion: films that start and then stop.
    """
    moving = round((1 - strength) * (len(clip) - 1))
    return at_times(clip, np.minimum(np.arange(len(clip), dtype=float), moving))


def stutter(clip: Clip, strength: float, rng: np.random.Generator) -> Clip:
    """Stands still for up to 8 frames, then jumps to where it should be, again and again.

    Models unnatural motion: frames that are repeated.
    """
    hold = 1 + (LONGEST_HOLD - 1) * strength
    times = np.arange(len(clip))
    return at_times(clip, np.floor(hold * np.floor(times / hold + 1e-6)))


def jitter(clip: Clip, strength: float, rng: np.random.Generator) -> Clip:
    """Moves every frame at random, by 6 % of the smaller side at 1 (standard deviation).

    Models unnatural motion: a shake that no camera has.
    """
    size = strength * SHAKE * min(clip.shape[1:3])
    return displaced(clip, size * rng.standard_normal((len(clip), 1, 1, 2)))


def detail_corruption(clip: Clip, strength: float, rng: np.random.Generator) -> Clip:
    """Makes drifting patches, half of every clip at 1, late by 4 frames and coarse.

    Models local damage: the paper tunes a step cache (TeaCache) until details break. What such a
    cache gives is what an earlier state gave, without the fine parts.
    """
    frames, height, width = clip.shape[:3]
    field = smooth_noise(rng, (frames, height, width), (2 + frames // 8, 9, 9))
    damaged = field < np.quantile(field, 0.5 * strength)
    late = np.maximum(np.arange(frames) - STALE, 0)
    return np.where(damaged[..., None], _coarse(clip, max(min(height, width) // 16, 2))[late], clip)


def shape_morphing(clip: Clip, strength: float, rng: np.random.Generator) -> Clip:
    """Bends the picture more and more, by 8 % of the smaller side at 1 (standard deviation).

    Models distortion of the subject: outlines that melt and swell.
    """
    frames, height, width = clip.shape[:3]
    knots = (2 + frames // 8, 6, 6)
    bend = [smooth_noise(rng, (frames, height, width), knots) for _ in range(2)]
    ramp = np.linspace(0, 1, frames)[:, None, None, None]  # all clips begin as they were
    return displaced(clip, strength * BEND * min(height, width) * ramp * np.stack(bend, -1))


DISTORTIONS: dict[str, Distortion] = {
    made.__name__: made
    for made in (
        *(time_reversal, too_fast, too_slow, freeze),
        *(stutter, jitter, detail_corruption, shape_morphing),
    )
}


def distort(kind: str, clip: Clip, *, strength: float, seed: int) -> Clip:
    """Returns the twin of `clip`; (kind, strength, seed) and the clip determine it for ever.

    strength: in (0, 1]; at 0 there would be nothing to reject.
    Raises `UserError` for an unknown kind, another strength, or a clip of fewer than 2 frames.
    """
    if kind not in DISTORTIONS:
        raise UserError(f"no distortion {kind!r}{suggest(kind, DISTORTIONS)}")
    check_strength(strength)
    if len(clip) < 2:
        raise UserError("a clip of one frame has no motion to distort; legal: 2 frames and more")
    rng = np.random.default_rng([zlib.crc32(kind.encode()), seed])
    return DISTORTIONS[kind](clip, strength, rng)


def check_strength(strength: float) -> None:
    """Raises `UserError` for a strength that is not in (0, 1]."""
    if not 0 < strength <= 1:
        raise UserError(f"strength {strength:g} is out of range; legal: more than 0, at most 1")


def _coarse(clip: Clip, block: int) -> Clip:
    """Returns `clip` with the mean of every `block` x `block` pixels in all of them."""
    height, width = clip.shape[1:3]
    rows, columns = np.arange(0, height, block), np.arange(0, width, block)
    tall, wide = np.diff(np.append(rows, height)), np.diff(np.append(columns, width))
    total = np.add.reduceat(np.add.reduceat(clip.astype(np.float32), rows, 1), columns, 2)
    mean = np.rint(total / (tall[:, None] * wide[None, :])[None, :, :, None]).astype(np.uint8)
    return mean.repeat(tall, 1).repeat(wide, 2)
