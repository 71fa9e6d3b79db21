"""Scores of a film's stills, one by one: what pairs that differ in motion alone have in common.

Nothing here hangs on where things are in a frame or on how frames follow each other, so that no
motion, however wrong, changes what is said of the picture.
"""

from collections.abc import Callable, Mapping

import numpy as np
from jaxtyping import UInt8

from skyreels_jax.data.toy_film.world import Scene
from skyreels_jax.evals.judge import PICTURED, pictured


def score_stills(
    frames: UInt8[np.ndarray, "T H W 3"], scene: Scene, *, stills: int = 5
) -> dict[str, float]:
    """Returns two scores over evenly spaced frames.

    text_alignment: the share of `PICTURED` that is right, by the judge, who is shown each frame by
    itself.
    visual_quality: how much detail there is, the mean step between neighbouring pixels (levels) in
    dB: blur has less, noise has more. Unlike the judge's PSNR against a rendered film, which is 47
    or 27 dB by how the panorama falls on the pixels, it is the same wherever the camera looks.
    Raises `UserError` on frames that cannot be judged.
    """
    picks = np.unique(np.round(np.linspace(0, len(frames) - 1, stills)).astype(int))
    shown = [pictured(frames[t]) for t in picks]
    right = [[said[name] == getattr(scene, name) for name in PICTURED] for said in shown]
    seen = frames[picks].astype(np.float32)
    step = np.mean([np.abs(np.diff(seen, axis=axis)).mean() for axis in (1, 2)])
    quality = 20 * np.log10(max(float(step), 1e-3))
    return {"text_alignment": float(np.mean(right)), "visual_quality": float(quality)}


def stills_score(
    scenes: Mapping[str, Scene],
) -> Callable[[UInt8[np.ndarray, "T H W 3"], str], dict[str, float]]:
    """Returns `score_stills` of a film and of the scene that its prompt stands for in `scenes`."""
    return lambda frames, prompt: score_stills(frames, scenes[prompt])
