"""When a metric has stopped rising, so that a run may end before its last step."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from skyreels_jax.core.errors import UserError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plateau:
    """The rule: `metric`, averaged over windows of `window` steps, has stopped rising when the last
    `patience` windows all lie less than `gain` above the best one before them, and that one is at
    least `floor`.

    The floor keeps a run from ending before it has begun to rise. Values that are not finite count
    for nothing. Raises `UserError` for values that make no sense.
    """

    metric: str = "implicit_accuracy"
    window: int = 50
    patience: int = 2
    gain: float = 0.01
    floor: float = 0.6

    def __post_init__(self):
        if self.window < 1 or self.patience < 1 or not self.gain >= 0:
            raise UserError(
                "a plateau needs window >= 1, patience >= 1 and gain >= 0, got "
                f"{self.window}, {self.patience}, {self.gain}"
            )

    def reached(self, values: Sequence[float]) -> bool:
        """Returns whether the whole windows in `values`, one a step from the first on, are flat."""
        count = len(values) // self.window
        rows = np.asarray(values[: count * self.window], np.float64).reshape(count, self.window)
        means = np.asarray([row[np.isfinite(row)].mean() for row in rows if np.isfinite(row).any()])
        if len(means) <= self.patience:
            return False
        best = means[: -self.patience].max()
        return bool(best >= self.floor and means[-self.patience :].max() < best + self.gain)


class Watch:
    """The values of a rule's metric in all steps so far, of which `values` were taken before.

    They are kept on the device until somebody asks; that of a skipped step is NaN. Without a rule
    nothing is kept.
    """

    def __init__(self, rule: Plateau | None, values: Sequence[float]):
        self._rule = rule
        self._values = list(values) if rule else []
        self._pending: list[tuple[jax.Array, jax.Array]] = []  # value, whether skipped

    def add(self, metrics: Mapping[str, Any]) -> None:
        """Takes note of one step."""
        if self._rule is not None:
            self._pending.append((metrics[self._rule.metric], metrics["skipped"]))

    def values(self) -> list[float]:
        """Returns all values; waits for the device."""
        told = jax.device_get(self._pending)
        self._values += [math.nan if skipped else float(value) for value, skipped in told]
        self._pending = []
        return self._values

    def over(self) -> bool:
        """Returns whether the rule ends the run here; waits for the device at ends of windows."""
        count = len(self._values) + len(self._pending)
        if self._rule is None or count % self._rule.window:
            return False
        return self._rule.reached(self.values())
