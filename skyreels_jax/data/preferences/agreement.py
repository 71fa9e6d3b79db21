"""How far several people agree: Krippendorff's alpha for ordered values.

Krippendorff, "Computing Krippendorff's Alpha-Reliability" (2011): 1 - observed / expected
disagreement; 1: they agree, 0: as if drawn at random. Chosen over Fleiss' kappa because not all
annotators see all pairs, and because "worse" is further from "better" than "tie" is.
"""

from collections.abc import Sequence

import numpy as np


def krippendorff_alpha(units: Sequence[Sequence[int]], values: int) -> float:
    """Returns the ordinal alpha of the values 0, ..., `values` - 1 that were given to each unit.

    Units with fewer than two values count for nothing. NaN where nothing can be said: no such
    unit, or one value everywhere.
    """
    coincidence = np.zeros((values, values))
    for unit in units:
        if len(unit) > 1:
            counts = np.bincount(unit, minlength=values).astype(float)
            coincidence += (np.outer(counts, counts) - np.diag(counts)) / (len(unit) - 1)
    totals = coincidence.sum(1)
    total = totals.sum()
    apart = _ordinal_distances(totals)
    expected = (np.outer(totals, totals) * apart).sum()
    if total < 2 or expected == 0:
        return float("nan")
    return float(1 - (total - 1) * (coincidence * apart).sum() / expected)


def _ordinal_distances(totals: np.ndarray) -> np.ndarray:
    """Returns the squared number of values between each two, half of those at the ends counted."""
    middle = np.cumsum(totals) - totals / 2
    return (middle[:, None] - middle[None, :]) ** 2
