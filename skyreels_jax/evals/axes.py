"""A film on four axes, by the judge: what motion learning may change, and what it must not."""

import numpy as np
from jaxtyping import UInt8

from skyreels_jax.data.toy_film.world import NO_SPEED, Scene
from skyreels_jax.evals.judge import judge

MOTION = ("direction", "speed")
OTHERS = ("colour", "shape", "shot_type", "camera_motion", "environment", "lighting")
AXES = ("motion", "adherence", "consistency", "quality")


def score_axes(frames: UInt8[np.ndarray, "T H W 3"], scene: Scene) -> dict[str, float]:
    """Returns the film's score on each of `AXES`; more is better.

    motion: in [0, 1], the mean of what is right of `MOTION` (a still subject has no speed) and of
    exp(-track_error / 1 px), 0 without a subject: the way, the pace, and how close to a law.
    adherence: the share of `OTHERS` that is right. consistency in [0, 1], quality in dB: the
    judge's. Raises `UserError` on films that cannot be judged.
    """
    verdict = judge(frames)
    asked = [name for name in MOTION if getattr(scene, name) != NO_SPEED]
    moves: list[float] = [getattr(verdict, name) == getattr(scene, name) for name in asked]
    off = verdict.track_error
    return {
        "motion": float(np.mean([*moves, 0.0 if np.isnan(off) else np.exp(-off)])),
        "adherence": float(
            np.mean([getattr(verdict, name) == getattr(scene, name) for name in OTHERS])
        ),
        "consistency": verdict.consistency,
        "quality": verdict.quality,
    }
