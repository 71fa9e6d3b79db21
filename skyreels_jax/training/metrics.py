"""Means of a window of steps, and metrics.csv with a row for each, without rows of lost steps."""

import csv
import itertools
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import UInt8

from skyreels_jax.core.errors import UserError
from skyreels_jax.core.files import replacing
from skyreels_jax.objectives.base import report


def window_mean(rows: Sequence[dict[str, np.ndarray]]) -> dict[str, float]:
    """Returns the mean of each metric over a window of steps, as floats; "skipped" is summed.

    Skipped steps leave the others' mean alone.
    """
    good = [row for row in rows if not row["skipped"]] or rows
    means = {name: np.mean([row[name] for row in good]) for name in rows[0]}
    means["skipped"] = np.sum([row["skipped"] for row in rows])
    return report(means)


class Skips:
    """Counts steps in a row that were skipped; `UserError` when there are `most`."""

    def __init__(self, most: int):
        self.most, self.streak = most, 0

    def add(self, rows: Sequence[dict[str, np.ndarray]]) -> None:
        """Counts on over the metrics of some steps."""
        for row in rows:
            self.streak = self.streak + 1 if row["skipped"] else 0
            if self.streak == self.most:
                raise UserError(
                    f"the gradients of {self.most} steps in a row were not finite (max_skipped); "
                    "go on from an earlier checkpoint with a lower learning rate"
                )


def last_means(path: pathlib.Path, steps: int) -> tuple[int, dict[str, float]]:
    """Returns the last step of a metrics.csv, and the mean of each column over the last `steps`.

    Each row counts for the steps that it is the mean of, so that a run that was stopped in the
    middle of a window and went on has the same means.
    """
    rows = _read(path)
    ends = [int(row["step"]) for row in rows]
    first = max(ends[-1] - steps, 0)
    spans = [max(b - max(a, first), 0) for a, b in itertools.pairwise([0, *ends])]
    means: dict[str, float] = {}
    for name in rows[-1].keys() - {"step"}:
        told = [(float(row[name]), n) for row, n in zip(rows, spans, strict=True) if row[name]]
        if total := sum(n for _, n in told):
            means[name] = sum(value * n for value, n in told) / total
    return ends[-1], means


class MetricsLog:
    """Appends rows to `path`; what an interrupted run wrote there after `step` is dropped first.

    Pictures are files in folders beside it, NAME/STEP.png.
    """

    def __init__(self, path: pathlib.Path, *, step: int):
        self.path = path
        self.rows: list[dict[str, Any]] = [row for row in _read(path) if int(row["step"]) <= step]
        self._write()

    def write(self, step: int, row: Mapping[str, float]) -> None:
        """Adds the row of `step`; a column that earlier rows lack is added to them, empty."""
        row = {"step": step, **{name: f"{value:.6g}" for name, value in row.items()}}
        known = set(self.rows[0]) if self.rows else set()
        self.rows.append(row)
        if set(row) - known:
            self._write()
            return
        with self.path.open("a", newline="") as file:
            csv.DictWriter(file, list(self.rows[0])).writerow(row)

    def image(self, step: int, name: str, image: UInt8[np.ndarray, "H W 3"]) -> None:
        """Writes a picture."""
        import imageio.v3 as iio

        folder = self.path.parent / name
        folder.mkdir(exist_ok=True)
        iio.imwrite(folder / f"{step:08d}.png", image)

    def close(self) -> None:
        """Nothing is open."""

    def _write(self) -> None:
        names = list(dict.fromkeys(name for row in self.rows for name in row))
        self.rows = [{name: row.get(name, "") for name in names} for row in self.rows]
        with replacing(self.path) as aside, aside.open("w", newline="") as file:
            writer = csv.DictWriter(file, names)
            writer.writeheader()
            writer.writerows(self.rows)


def _read(path: pathlib.Path) -> list[dict[str, str]]:
    if not path.exists():
        return []
    lines = path.read_text().splitlines(keepends=True)
    if lines and not lines[-1].endswith("\n"):
        lines.pop()  # the run was killed while it wrote this row
    return list(csv.DictReader(lines))
