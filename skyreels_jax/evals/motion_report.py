"""What motion learning changed: errors of motion, and the axes that it is to leave as they were.

Settings are compared on films of the same captions from the same noise, several seeds a caption.
Intervals are the bootstrap's over captions: all seeds of a caption are drawn together, and so are
both settings, for films of one caption are more alike than others.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from skyreels_jax.evals.axes import ERRORS, motion_errors, other_axes
from skyreels_jax.evals.intervals import Estimate, bootstrap
from skyreels_jax.evals.suite import Report

MOTION = "motion"  # the mean of all kinds of errors
KEPT = ("adherence", "consistency", "quality")
NAMES = (MOTION, *ERRORS, *KEPT)
FALL = 25.0  # %: by how much motion learning is to lower the error of motion
LOSS = 1.0  # points (quality: dB): what it may cost each of `KEPT`
_SCALE = {"adherence": 100.0, "consistency": 100.0, "quality": 1.0}
_TITLES = {
    MOTION: "errors of motion",
    **{"direction": "wrong direction", "speed": "wrong speed"},
    **{"track": "uneven track", "outline": "unsteady outline"},
}


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class MotionReport:
    """Films of one setting: some rounds of the same `captions` captions."""

    name: str
    captions: int
    report: Report

    @functools.cached_property
    def _films(self) -> Float[np.ndarray, "S N 7"]:
        rows = [
            [
                *(motion_errors(one.verdict, one.scene)[name] for name in ERRORS),
                *(other_axes(one.verdict, one.scene)[name] for name in KEPT),
            ]
            for one in self.report.samples
        ]
        return np.array(rows, float).reshape(-1, self.captions, len(rows[0]))

    def means(self, captions: Int[np.ndarray, "*draws M"]) -> Float[np.ndarray, "*draws 8"]:
        """Returns the means over all films of some captions, in the order of `NAMES`.

        That of motion is the mean of its four errors' means. NaN: no film has it.
        """
        total, count = np.nansum(self._films, 0), (~np.isnan(self._films)).sum(0)
        sums, counts = total[captions].sum(-2), count[captions].sum(-2)
        means = np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)
        motion = np.nanmean(means[..., : len(ERRORS)], -1, keepdims=True)
        return np.concatenate([motion, means], -1)

    def estimate(self, name: str) -> Estimate:
        """Returns one of `NAMES`, by itself."""
        return bootstrap(lambda rows: self.means(rows)[..., NAMES.index(name)], self.captions)

    def summary(self) -> dict[str, Any]:
        """Returns {"films", one of `NAMES`: {"value", "low", "high"}}, json-ready."""
        found = {name: self.estimate(name).summary() for name in NAMES}
        return {"films": len(self.report.samples), **found}


def change(before: MotionReport, after: MotionReport, name: str) -> Estimate:
    """Returns the change of one of `NAMES`: of errors in percent of what they were, of `KEPT` in
    points (quality: dB).

    NaN where there were no errors.
    """
    column = NAMES.index(name)

    def statistic(rows: np.ndarray) -> np.ndarray:
        old, new = (np.asarray(one.means(rows)[..., column]) for one in (before, after))
        if name in KEPT:
            return np.asarray(_SCALE[name] * (new - old))
        return np.where(old > 0, 100 * (new / np.where(old > 0, old, 1) - 1), np.nan)

    return bootstrap(statistic, before.captions)


def verdict(before: MotionReport, after: MotionReport) -> dict[str, Any]:
    """Returns all changes, and which targets they meet, json-ready.

    Targets: errors of motion lower by `FALL` % or more, and none of `KEPT` lower by more than
    `LOSS`. What is met is said of the values; how sure that is, of their intervals.
    """
    changes = {name: change(before, after, name) for name in NAMES}
    met = {MOTION: changes[MOTION].value <= -FALL}
    met |= {name: changes[name].value >= -LOSS for name in KEPT}
    told = {name: one.summary() for name, one in changes.items()}
    return {"change": told, "targets": met, "met": all(met.values())}


def table(settings: Sequence[MotionReport]) -> str:
    """Returns the means of all settings as text, and what the others change of the first."""
    first = settings[0]
    wide, column = 18, max(10, *(len(s.name) + 2 for s in settings))
    seeds = len(first.report.samples) // first.captions
    lines = [f"{'':<{wide}}" + "".join(f"{s.name:>{column}}" for s in settings)]
    found = [s.means(np.arange(s.captions)) for s in settings]
    for row, name in enumerate(NAMES):
        cells = (shown(name, one[row]) for one in found)
        lines.append(f"{title(name):<{wide}}" + "".join(f"{cell:>{column}}" for cell in cells))
    lines += ["", f"{first.captions} captions, {seeds} seeds; errors from 0 to 1, less is better"]
    for other in settings[1:]:
        lines += ["", f"{other.name} against {first.name} (95 % interval)"]
        for name in NAMES:
            lines.append(f"  {title(name):<{wide}}{change(first, other, name)!s:>26} {unit(name)}")
        targets = verdict(first, other)
        told = ", ".join(n for n, good in targets["targets"].items() if not good)
        lines.append(
            f"targets: errors of motion {-FALL:+.0f} % or less, {', '.join(KEPT)} {-LOSS:+.0f} or "
            f"more: {'met' if targets['met'] else f'missed ({told})'}"
        )
    return "\n".join(lines)


def title(name: str) -> str:
    """Returns what one of `NAMES` is called in tables and plots."""
    return _TITLES.get(name, name)


def shown(name: str, value: float) -> str:
    """Returns a value of one of `NAMES` as text."""
    return "none" if np.isnan(value) else format(value, ".2f" if name == "quality" else ".4f")


def unit(name: str) -> str:
    """Returns the unit of the change of one of `NAMES`."""
    return ("dB" if name == "quality" else "points") if name in KEPT else "%"
