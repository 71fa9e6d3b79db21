"""How sure a number is: 95 % intervals by the bootstrap."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Float, Int

_DRAWS, _INTERVAL = 1000, (2.5, 97.5)

# Row numbers of one sample, or of many, -> the number for each.
Statistic = Callable[[Int[np.ndarray, "*draws N"]], Float[np.ndarray, "*draws"]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Estimate:
    """A number and its 95 % interval; NaN where it has none."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        if np.isnan(self.value):
            return "none"
        return f"{self.value:+.1f} ({self.low:+.1f} to {self.high:+.1f})"

    def summary(self) -> dict[str, Any]:
        """Returns the three numbers, json-ready (NaN is None)."""
        values = dataclasses.asdict(self)
        return {name: None if v != v else round(v, 4) for name, v in values.items()}


def bootstrap(statistic: Statistic, count: int) -> Estimate:
    """Returns `statistic` of `count` rows, which are drawn anew, with replacement, always the same
    1000 times for its interval.

    Samples for which it is no finite number are left out of the interval.
    """
    value = float(statistic(np.arange(count)))
    if not np.isfinite(value):
        return Estimate(value=float("nan"), low=float("nan"), high=float("nan"))
    draws = statistic(np.random.default_rng(0).integers(count, size=(_DRAWS, count)))
    low, high = np.percentile(draws[np.isfinite(draws)], _INTERVAL)
    return Estimate(value=value, low=float(low), high=float(high))
