"""Drift: how long films change from second to second, in several settings side by side.

Three curves for each setting: adherence (the share of films that show what was asked for, by
attribute and in the mean; `lasting.py` says what is asked of every second), and how far the
subject's colour and the brightness of the film are from those of its own first second.
"""

import dataclasses
import math
from typing import Any

import numpy as np
from jaxtyping import Float

from skyreels_jax.data.toy_film import world
from skyreels_jax.evals.seconds import Judged, mean_right

KEPT = 0.90  # at least: the last second's adherence as a share of the first's
DRIFTED = 5.0  # less than: how far the subject's colour moves, in % of the range of a channel
_LEVELS = 255.0


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Drift:
    """Films made in one setting, all of them of the same length; numbers are functions of them."""

    name: str
    films: tuple[Judged, ...]

    @property
    def length(self) -> int:
        """Whole seconds of each film."""
        return len(self.films[0].seconds)

    @property
    def adherence(self) -> list[dict[str, float]]:
        """For every second, the share of films that are right by attribute, and the mean."""
        return [mean_right(films) for films in zip(*(f.right() for f in self.films), strict=True)]

    @property
    def colour(self) -> Float[np.ndarray, "films seconds"]:
        """How far the subject's mean colour is from the first second's, in % of range.

        The channel that moves most counts. NaN where the subject is not seen, or was not at first.
        """
        rows = [[_or_nan(second.colour) for second in film.seconds] for film in self.films]
        colours = np.array(rows)
        return 100 / _LEVELS * np.abs(colours - colours[:, :1]).max(-1)

    @property
    def brightness(self) -> Float[np.ndarray, "films seconds"]:
        """How far the mean luma is from the first second's, in % of range, with its sign."""
        light = np.array([[second.brightness for second in f.seconds] for f in self.films])
        return 100 / _LEVELS * (light - light[:, :1])

    @property
    def kept(self) -> float:
        """The last second's mean adherence as a share of the first's; NaN if that is 0."""
        first, last = (self.adherence[i]["mean"] for i in (0, -1))
        return last / first if first else math.nan

    @property
    def kept_error(self) -> float:
        """The standard error of `kept`, by the jackknife over films; NaN for a single one."""
        count = len(self.films)
        if count == 1:
            return math.nan
        rests = (self.films[:i] + self.films[i + 1 :] for i in range(count))
        kept = np.array([dataclasses.replace(self, films=rest).kept for rest in rests])
        return float(np.sqrt((count - 1) * np.mean((kept - kept.mean()) ** 2)))

    @property
    def drifted(self) -> float:
        """The mean over films of `colour` in the last second."""
        return float(mean_seen(self.colour)[-1])

    def measure(self, name: str) -> Float[np.ndarray, " seconds"]:
        """Returns presence, consistency or flicker by second, the mean over films."""
        return np.mean([[getattr(s, name) for s in f.seconds] for f in self.films], axis=0)

    def summary(self) -> dict[str, Any]:
        """Returns the numbers that have targets, and their parts, json-ready (NaN is None)."""
        return {
            "films": len(self.films),
            "seconds": self.length,
            "first_adherence": rounded(self.adherence[0]["mean"]),
            "last_adherence": rounded(self.adherence[-1]["mean"]),
            "kept": rounded(self.kept),
            "kept_error": rounded(self.kept_error),
            "kept_target": KEPT,
            "colour_drift": rounded(self.drifted),
            "colour_drift_target": DRIFTED,
            "brightness_drift": rounded(np.abs(self.brightness).mean(0)[-1]),
        }

    def curves(self) -> dict[str, Any]:
        """Returns every curve as a list over seconds, json-ready (NaN is None)."""
        names = (*world.ATTRIBUTES, "mean")
        return {
            "adherence": {n: [rounded(a[n]) for a in self.adherence] for n in names},
            "colour_drift": [rounded(v) for v in mean_seen(self.colour)],
            "brightness_drift": [rounded(v) for v in np.abs(self.brightness).mean(0)],
            "brightness_change": [rounded(v) for v in self.brightness.mean(0)],
            "presence": [rounded(v) for v in self.measure("presence")],
            "consistency": [rounded(v) for v in self.measure("consistency")],
            "flicker": [rounded(v) for v in self.measure("flicker")],
        }

    def records(self) -> list[dict[str, Any]]:
        """Returns what was asked for and what every second of every film shows, json-ready."""
        return [
            {
                "prompt": film.prompt,
                "seed": film.seed,
                "wanted": world.attributes(film.scene),
                "seconds": [second.shown for second in film.seconds],
                "colour": [
                    None if s.colour is None else [round(float(c), 1) for c in s.colour]
                    for s in film.seconds
                ],
                "brightness": [round(s.brightness, 2) for s in film.seconds],
            }
            for film in self.films
        ]


def table(drifts: list[Drift]) -> str:
    """Returns the summaries as text, one setting a line, each beside its target."""
    wide = max(len(d.name) for d in drifts) + 2
    head = f"{'first s':>8}{'last s':>8}{'last/first':>16}{'+-':>8}"
    lines = [f"{'':<{wide}}{head}{'subject colour':>20}{'brightness':>12}"]
    for drift in drifts:
        first, last = (drift.adherence[i]["mean"] for i in (0, -1))
        kept = f"{number(drift.kept, '.3f')} {verdict(drift.kept >= KEPT)}"
        unit = "" if math.isnan(drift.drifted) else " %"
        colour = f"{number(drift.drifted, '.2f')}{unit} {verdict(drift.drifted < DRIFTED)}"
        error = number(drift.kept_error, ".3f")
        light = f"{np.abs(drift.brightness).mean(0)[-1]:.2f} %"
        row = f"{first:>8.3f}{last:>8.3f}{kept:>16}{error:>8}{colour:>20}{light:>12}"
        lines.append(f"{drift.name:<{wide}}{row}")
    lines.append(f"targets: last/first >= {KEPT:.2f}; subject's colour < {DRIFTED:g} % of range")
    return "\n".join(lines)


def mean_seen(values: Float[np.ndarray, "films seconds"]) -> Float[np.ndarray, " seconds"]:
    """Returns the mean over the films that have a number; NaN for seconds without any."""
    seen = ~np.isnan(values)
    count = seen.sum(0)
    total = np.where(seen, values, 0.0).sum(0)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def rounded(value: float | np.floating) -> float | None:
    """Returns what json can hold."""
    return None if np.isnan(value) else round(float(value), 4)


def number(value: float | np.floating, form: str) -> str:
    """Returns a number for a table."""
    return "none" if np.isnan(value) else f"{value:{form}}"


def verdict(met: bool | np.bool_) -> str:
    """Returns whether a target is met, for a table."""
    return "met" if met else "MISSED"


def _or_nan(colour: np.ndarray | None) -> np.ndarray:
    return np.full(3, np.nan) if colour is None else colour
