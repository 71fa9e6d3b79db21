"""Statistics of ranks: Spearman's correlation, the ROC curve and the area under it."""

import numpy as np
from jaxtyping import Float


def ranks(values: Float[np.ndarray, " N"]) -> Float[np.ndarray, " N"]:
    """Returns the ranks from 1 on, equal values sharing the mean of theirs."""
    order = np.sort(values)
    below = np.searchsorted(order, values, side="left")
    upto = np.searchsorted(order, values, side="right")
    return (below + upto + 1) / 2


def rank_correlation(a: Float[np.ndarray, " N"], b: Float[np.ndarray, " N"]) -> float:
    """Returns Spearman's rank correlation; NaN for fewer than two values, NaNs, or all equal."""
    if len(a) < 2 or np.isnan(a).any() or np.isnan(b).any():
        return float("nan")
    x, y = (rank - rank.mean() for rank in (ranks(a), ranks(b)))
    scale = np.sqrt((x @ x) * (y @ y))
    return float(x @ y / scale) if scale else float("nan")


def roc_curve(
    good: Float[np.ndarray, " N"], bad: Float[np.ndarray, " M"]
) -> tuple[Float[np.ndarray, " K"], Float[np.ndarray, " K"]]:
    """Returns (false, true): the shares of bad and of good that score at least as high as a limit,
    for limits from above all scores to below them: from (0, 0) to (1, 1).
    """
    limits = np.unique(np.concatenate([good, bad]))[::-1]
    at_least = [
        1 - np.searchsorted(np.sort(values), limits, side="left") / len(values)
        for values in (bad, good)
    ]
    false, true = (np.concatenate([[0.0], shares]) for shares in at_least)
    return false, true


def roc_area(good: Float[np.ndarray, " N"], bad: Float[np.ndarray, " M"]) -> float:
    """Returns the probability that one of `good` scores higher than one of `bad`, equal scores half
    (the area under `roc_curve`); NaN where one is empty.
    """
    if not len(good) or not len(bad):
        return float("nan")
    rank = ranks(np.concatenate([good, bad]))[: len(good)].sum()
    return float((rank - len(good) * (len(good) + 1) / 2) / (len(good) * len(bad)))
