"""Preferences: two clips, which of them moves better, and what else is known of them.

Pairs come from `twins`, from a file (`pair_files`), or with the labels of people (`labels`); they
are kept in a TFDS dataset (`preferences_dataset_builder`).
"""

import collections
import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import grain
import numpy as np
from jaxtyping import UInt8

from skyreels_jax.core.config import suggest
from skyreels_jax.core.errors import UserError
from skyreels_jax.core.labels import LABELS

Clip = UInt8[np.ndarray, "F H W 3"]
SIDES = ("chosen", "rejected")
AXES = ("text_alignment", "visual_quality")  # on which both clips of a pair must be comparable
Scores = Mapping[str, tuple[float, float]]
Score = Callable[[Clip, str], Mapping[str, float]]  # clip and prompt -> a number for each of AXES


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Preference:
    """How `chosen` compares with `rejected` in motion.

    id: names the pair in its data set. chosen, rejected: uint8 [F, H, W, 3].
    label: one of `LABELS`. A pair that people find "worse" keeps its sides.
    source: where the rejected clip comes from, a distortion or another name.
    strength: of the distortion, in (0, 1]; 0: none is known.
    scores: for each of `AXES` those of the chosen and of the rejected clip.
    Raises `UserError` for anything else, for clips of two shapes, and for the same clip twice.
    """

    id: str
    chosen: np.ndarray
    rejected: np.ndarray
    label: str
    source: str
    prompt: str
    scores: Scores
    strength: float = 0.0

    def __post_init__(self):
        check_label(self.label, LABELS)
        for side in SIDES:
            clip = getattr(self, side)
            if clip.dtype != np.uint8 or clip.ndim != 4 or clip.shape[3] != 3 or not clip.size:
                raise UserError(
                    f"the {side} clip is {clip.dtype} {list(clip.shape)}; legal: uint8 [F, H, W, 3]"
                )
        if self.chosen.shape != self.rejected.shape:
            raise UserError(
                f"the chosen clip is {_size(self.chosen)} and the rejected one "
                f"{_size(self.rejected)}; legal: two of one shape"
            )
        if np.array_equal(self.chosen, self.rejected):
            raise UserError("chosen and rejected are the same clip; legal: two that differ")
        if not 0 <= self.strength <= 1:
            raise UserError(f"strength {self.strength:g} is out of range; legal: 0 to 1")
        checked_scores(self.scores)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Limits:
    """By how much the clips of a pair may differ on each of `AXES`, in the units of the scores.

    Within these only motion tells them apart. The defaults are for the scores of `evals.stills`:
    the share of what is right, and dB of detail.
    """

    text_alignment: float = 0.1
    visual_quality: float = 3.0

    def exceeded(self, scores: Scores) -> list[str]:
        """Returns the axes on which the two clips are not comparable."""
        return [axis for axis in AXES if abs(np.subtract(*scores[axis])) > getattr(self, axis)]


def comparable(
    pairs: Iterable[Preference], limits: Limits, *, dropped: collections.Counter | None = None
) -> Iterator[Preference]:
    """Yields those of `pairs` whose clips differ in motion alone, as far as the scores tell.

    dropped: counts the others by the axes on which they differ.
    Raises `UserError` when no pair is left.
    """
    dropped, kept = collections.Counter() if dropped is None else dropped, 0
    for pair in pairs:
        exceeded = limits.exceeded(pair.scores)
        dropped.update(exceeded)
        if not exceeded:
            kept += 1
            yield pair
    if not kept:
        reasons = ", ".join(f"{name}: {number}" for name, number in dropped.items())
        legal = ", ".join(f"{axis} {getattr(limits, axis):g}" for axis in AXES)
        raise UserError(
            f"no pair is left (dropped: {reasons or 'none came'}); legal: clips that differ, by at "
            f"most {legal}"
        )


@dataclasses.dataclass(frozen=True)
class CutPair(grain.transforms.RandomMap):
    """Cuts the same `frames` frames out of both clips of a record, anywhere; 0 takes all. Half of
    the pairs are mirrored, left for right, and half upside down: what moves well still does.

    The result is {"chosen", "rejected" (float32 in [-1, 1]), "label" (int32, index in `LABELS`)}.
    """

    frames: int = 0

    def random_map(self, element: Mapping[str, Any], rng: np.random.Generator) -> dict[str, Any]:
        have = len(element["chosen"])
        wanted = self.frames or have
        if wanted > have:
            raise UserError(f"cannot cut {wanted} frames out of clips of {have}")
        start = int(rng.integers(have - wanted + 1))
        rows, columns = (slice(None, None, -1 if rng.random() < 0.5 else 1) for _ in range(2))
        cut = (slice(start, start + wanted), rows, columns)
        sides = {side: element[side][cut].astype(np.float32) / 127.5 - 1.0 for side in SIDES}
        return sides | {"label": np.int32(element["label"])}


def checked_scores(scores: Mapping[str, Any]) -> dict[str, tuple[float, float]]:
    """Returns `scores` as `Preference` has them; `UserError` for anything else."""
    for axis in scores:
        if axis not in AXES:
            raise UserError(f"no axis {axis!r}{suggest(axis, AXES)}")
    try:
        made = {axis: (float(scores[axis][0]), float(scores[axis][1])) for axis in AXES}
        legal = all(len(both) == 2 and all(map(math.isfinite, both)) for both in scores.values())
    except (KeyError, IndexError, TypeError, ValueError):
        legal = False
    if not legal:
        raise UserError(
            "scores are two numbers, of the chosen and of the rejected clip, for each of "
            f"{', '.join(AXES)}"
        )
    return made


def check_label(label: str, legal: tuple[str, ...]) -> None:
    """Raises `UserError` for an unknown label."""
    if label not in legal:
        raise UserError(f"label {label!r} is not one of {', '.join(legal)}")


def _size(clip: Clip) -> str:
    frames, height, width = clip.shape[:3]
    return f"{frames} frames of {height}x{width}"
