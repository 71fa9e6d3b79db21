"""A film on four axes, by the judge: what motion learning may change, and what it must not."""

import numpy as np
from jaxtyping import UInt8

from skyreels_jax.data.toy_film.world import NO_SPEED, Scene
from skyreels_jax.evals.judge import Verdict, judge

ERRORS = ("direction", "speed", "track", "outline")
OTHERS = ("colour", "shape", "shot_type", "camera_motion", "environment", "lighting")
AXES = ("motion", "adherence", "consistency", "quality")


def motion_errors(verdict: Verdict, scene: Scene) -> dict[str, float]:
    """Returns how wrong a film moves in each of `ERRORS`, from 0 (right) to 1.

    direction, speed: 1 where it is not what was asked for; a still subject has no speed (NaN).
    track: 1 - exp(-track_error / 1 px), how far from any law the path is, by jumps or jitter.
    outline: 1 - the judge's, how badly the subject keeps the outline of one shape.
    Without a subject all are 1 (but NaN, where nothing was asked for).
    """
    off = verdict.track_error
    still = scene.speed == NO_SPEED
    return {
        "direction": float(verdict.direction != scene.direction),
        "speed": float("nan") if still else float(verdict.speed != scene.speed),
        "track": 1.0 if np.isnan(off) else float(1 - np.exp(-off)),
        "outline": 1.0 - verdict.outline,
    }


def other_axes(verdict: Verdict, scene: Scene) -> dict[str, float]:
    """Returns the film's score on the axes that are not motion; more is better.

    adherence: the share of `OTHERS` that is right. consistency in [0, 1], quality in dB: the
    judge's.
    """
    right = [getattr(verdict, name) == getattr(scene, name) for name in OTHERS]
    return {
        "adherence": float(np.mean(right)),
        "consistency": verdict.consistency,
        "quality": verdict.quality,
    }


def score_axes(frames: UInt8[np.ndarray, "T H W 3"], scene: Scene) -> dict[str, float]:
    """Returns the film's score on each of `AXES`; more is better.

    motion: in [0, 1], 1 - the mean of the `motion_errors` there are: the way, the pace, how close
    to a law, how stable in shape. All else as `other_axes` has it.
    Raises `UserError` on films that cannot be judged.
    """
    verdict = judge(frames)
    errors = list(motion_errors(verdict, scene).values())
    return {"motion": 1.0 - float(np.nanmean(errors)), **other_axes(verdict, scene)}
