"""Adherence concept by concept: films grouped by the value of one attribute of what was asked for.

A model may be good on the whole and bad at what it rarely saw. Settings that made films of the same
captions from the same noise are compared film by film, which takes the luck of the draw out.
"""

import dataclasses
from typing import Any

import numpy as np
from jaxtyping import Float

from skyreels_jax.core.config import suggest
from skyreels_jax.core.errors import UserError
from skyreels_jax.data.toy_film.world import ATTRIBUTES
from skyreels_jax.evals.intervals import Estimate, bootstrap
from skyreels_jax.evals.suite import Report

GAIN, LOSS = 5.0, 1.0  # points: what balanced fine-tuning is to give the worst, and may cost all
ALL = "all"

Outcomes = Float[np.ndarray, "N 8"]


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Concepts:
    """Films of one setting, grouped by what was asked for as `attribute`."""

    name: str
    attribute: str
    report: Report

    @property
    def values(self) -> list[str]:
        """The concepts that were asked for, in the world's order."""
        asked = {getattr(sample.scene, self.attribute) for sample in self.report.samples}
        return [value for value in ATTRIBUTES[self.attribute] if value in asked]

    def outcomes(self, value: str = ALL) -> Outcomes:
        """Returns a row for every film of `value`, or of all: 1 for each attribute that it shows as
        asked for, 0 for each other, NaN for one that it cannot show.
        """
        rows = [
            [np.nan if (ok := sample.correct(name)) is None else float(ok) for name in ATTRIBUTES]
            for sample in self.report.samples
            if value in (ALL, getattr(sample.scene, self.attribute))
        ]
        return np.array(rows, float)

    def summary(self) -> dict[str, Any]:
        """Returns {value: {"films", "right", "adherence"}}, "all" last, json-ready."""
        return {
            value: {
                "films": len(found := self.outcomes(value)),
                "right": round(float(right(found, self.attribute)), 4),
                "adherence": round(float(adherence(found)), 4),
            }
            for value in (*self.values, ALL)
        }


def check_attribute(name: str) -> str:
    """Returns `name`; raises `UserError` unless it is an attribute that every film has."""
    legal = [attribute for attribute in ATTRIBUTES if attribute != "speed"]  # still ones have none
    if name not in legal:
        raise UserError(f"--by {name!r} is no attribute to group by{suggest(name, legal)}")
    return name


def right(
    outcomes: Float[np.ndarray, "*draws N 8"], attribute: str
) -> Float[np.ndarray, "*draws"] | float:
    """Returns the share of films that show the `attribute` that was asked for."""
    return outcomes[..., list(ATTRIBUTES).index(attribute)].mean(-1)


def adherence(
    outcomes: Float[np.ndarray, "*draws N 8"],
) -> Float[np.ndarray, "*draws"] | float:
    """Returns the mean over attributes of the share of films that are right in them."""
    counted = (~np.isnan(outcomes)).sum(-2)
    shares = np.nansum(outcomes, -2) / np.maximum(counted, 1)
    return shares.sum(-1) / (counted > 0).sum(-1)


def change(before: Outcomes, after: Outcomes, attribute: str | None) -> Estimate:
    """Returns the change of `right`, or of `adherence` without an attribute, in points.

    Row i of both is the same caption from the same noise. The interval is the bootstrap's over
    films, both settings of a film drawn together.
    """

    def points(rows: np.ndarray) -> np.ndarray:
        pair = before[rows], after[rows]
        values = [right(one, attribute) if attribute else adherence(one) for one in pair]
        return np.asarray(100 * (values[1] - values[0]))

    return bootstrap(points, len(before))


def verdict(before: Concepts, after: Concepts) -> dict[str, Any]:
    """Returns how the concept that `before` shows worst has changed, and the adherence of all.

    Worst: the lowest share of films that show it, of equal ones the lower adherence. Targets: at
    least `GAIN` points more of it, at most `LOSS` points less adherence. What is worst by luck
    alone looks better the next time: where shares are close to each other, take more films.
    """
    found = before.summary()
    worst = min(before.values, key=lambda v: (found[v]["right"], found[v]["adherence"]))
    one = change(before.outcomes(worst), after.outcomes(worst), before.attribute)
    mean = change(before.outcomes(), after.outcomes(), None)
    return {
        "worst": worst,
        "right": one.summary(),
        "adherence": mean.summary(),
        "met": one.value >= GAIN and mean.value >= -LOSS,
    }


def table(settings: list[Concepts]) -> str:
    """Returns concepts as text, one a line, and against the first setting what the others change.

    For each setting: the share of the concept's films that show it, and their adherence.
    """
    first, attribute = settings[0], settings[0].attribute
    wide = max(len(value) for value in (*first.values, ALL, attribute)) + 2
    column = max(20, *(len(s.name) + 2 for s in settings))
    heads = "".join(f"{s.name:>{column}}" for s in settings)
    parts = f"{'right  adherence':>{column}}" * len(settings)
    lines = [f"{attribute:<{wide}}{'films':>6}{heads}", f"{'':<{wide + 6}}{parts}"]
    found = [setting.summary() for setting in settings]
    for value in (*first.values, ALL):
        rows = [one[value] for one in found]
        cells = [f"{row['right']:.3f}      {row['adherence']:.3f}" for row in rows]
        line = "".join(f"{cell:>{column}}" for cell in cells)
        lines.append(f"{value:<{wide}}{rows[0]['films']:>6}{line}")
    for other in settings[1:]:
        lines += ["", *_changes(first, other)]
    return "\n".join(lines)


def _changes(first: Concepts, other: Concepts) -> list[str]:
    lines = [f"{other.name} against {first.name}, points (95 % interval): right; adherence"]
    for value in (*first.values, ALL):
        pair = first.outcomes(value), other.outcomes(value)
        changes = [str(change(*pair, attribute)) for attribute in (first.attribute, None)]
        lines.append(f"  {value:<12}{changes[0]:>26}{changes[1]:>26}")
    found = verdict(first, other)
    met = "met" if found["met"] else "missed"
    lines.append(
        f"worst, {found['worst']}: {found['right']['value']:+.1f} right (target: {GAIN:+.0f} or "
        f"more); adherence of all: {found['adherence']['value']:+.1f} (target: {-LOSS:+.0f} or "
        f"more): {met}"
    )
    return lines
