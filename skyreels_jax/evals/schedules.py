"""What it takes to make films synchronously, asynchronously or block by block, and what they are.

The same films are made in every setting. Quality: adherence, consistency and flicker, means over
all whole seconds of all films. Cost: seconds of computing for a second of film, and how often the
model runs for it - on whole windows, or on single blocks where the rest is cached, so that runs of
different settings cost different time.
"""

import dataclasses
import statistics
from typing import Any

import numpy as np

from skyreels_jax.evals.drift import number, rounded
from skyreels_jax.evals.seconds import Judged, mean_right


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Schedule:
    """Films made in one setting, and what each cost.

    took: seconds of computing for each film; runs: of the model; lasts: seconds of film.
    """

    name: str
    model: str
    films: tuple[Judged, ...]
    took: tuple[float, ...]
    runs: tuple[int, ...]
    lasts: float

    @property
    def adherence(self) -> dict[str, float]:
        """Share of all seconds that are right by attribute, and the mean of these."""
        return mean_right([found for film in self.films for found in film.right()])

    @property
    def compute(self) -> float:
        """Seconds of computing for a second of film: the median over films.

        Programs are compiled during the first film, which counts only if it is the only one.
        """
        return statistics.median(self.took[1:] or self.took) / self.lasts

    @property
    def model_runs(self) -> float:
        """How often the model runs for a second of film, twice a step under guidance.

        The run that puts a finished block into a cache is not counted; `compute` has its time, but
        for that of the last block, which nothing waits for.
        """
        return statistics.mean(self.runs) / self.lasts

    def measure(self, name: str) -> float:
        """Returns presence, consistency or flicker, the mean over all seconds."""
        return float(np.mean([getattr(s, name) for film in self.films for s in film.seconds]))

    def summary(self) -> dict[str, Any]:
        """Returns the row of the table, json-ready (NaN is None)."""
        return {
            "model": self.model,
            "films": len(self.films),
            "adherence": {name: rounded(value) for name, value in self.adherence.items()},
            "consistency": rounded(self.measure("consistency")),
            "flicker": rounded(self.measure("flicker")),
            "compute_per_second": rounded(self.compute),
            "model_runs_per_second": rounded(self.model_runs),
        }


def table(schedules: list[Schedule]) -> str:
    """Returns the settings as text, one a line."""
    wide = max(len(s.name) for s in schedules) + 2
    heads = ("adherence", "consistency", "flicker", "compute s/s", "model runs/s")
    lines = [" " * wide + "".join(f"{head:>14}" for head in heads)]
    for schedule in schedules:
        values = (
            number(schedule.adherence["mean"], ".3f"),
            number(schedule.measure("consistency"), ".3f"),
            number(schedule.measure("flicker"), ".2f"),
            number(schedule.compute, ".2f"),
            number(schedule.model_runs, ".1f"),
        )
        lines.append(f"{schedule.name:<{wide}}" + "".join(f"{value:>14}" for value in values))
    return "\n".join(lines)
