"""How well a reward model tells motion apart: accuracy, calibration, ROC, strength, agreement.

Everything here is a function of scores that were given before; which model gave them is no matter.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from skyreels_jax.core.labels import BETTER, TIE, WORSE
from skyreels_jax.evals.ranks import rank_correlation, roc_area

BINS = 10


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class ScoredPairs:
    """Labelled pairs, the scores of both clips, and the probabilities of `core.labels.LABELS` that
    follow.

    kinds: where the rejected clips come from. labels: of the chosen ones, indices in these.
    """

    kinds: tuple[str, ...]
    labels: Int[np.ndarray, " N"]
    chosen: Float[np.ndarray, " N"]
    rejected: Float[np.ndarray, " N"]
    probabilities: Float[np.ndarray, "N 3"]

    def of(self, kind: str) -> "ScoredPairs":
        """Returns the pairs of one kind."""
        on = np.array([one == kind for one in self.kinds])
        arrays = ("labels", "chosen", "rejected", "probabilities")
        kept = {name: getattr(self, name)[on] for name in arrays}
        return ScoredPairs(kinds=(kind,) * int(on.sum()), **kept)

    @property
    def decisive(self) -> Bool[np.ndarray, " N"]:
        """Which pairs are no ties."""
        return self.labels != TIE

    def right(self) -> Bool[np.ndarray, " M"]:
        """Returns, for each decisive pair, whether its better clip has the higher score."""
        margin = np.where(self.labels == BETTER, 1, -1) * (self.chosen - self.rejected)
        return margin[self.decisive] > 0

    def likeliest_right(self) -> Bool[np.ndarray, " N"]:
        """Returns, for each pair, whether its label is the likeliest of the three."""
        return self.probabilities.argmax(axis=1) == self.labels

    def sides(self) -> tuple[Float[np.ndarray, " M"], Float[np.ndarray, " M"]]:
        """Returns the scores of the better and of the worse clips of the decisive pairs."""
        swap = self.labels == WORSE
        better = np.where(swap, self.rejected, self.chosen)
        worse = np.where(swap, self.chosen, self.rejected)
        return better[self.decisive], worse[self.decisive]

    def confidence(self) -> Float[np.ndarray, " M"]:
        """Returns, for each decisive pair, the probability of the side that is taken for better,
        given that there is no tie.
        """
        two = self.probabilities[self.decisive][:, [BETTER, WORSE]]
        return two.max(axis=1) / two.sum(axis=1)

    def summary(self) -> dict[str, Any]:
        """Returns accuracies with standard errors, area under the ROC curve, calibration error;
        None where there is no pair to tell by.
        """
        right, likeliest = self.right(), self.likeliest_right()
        found: dict[str, Any] = {"pairs": len(self.labels), "ties": int((~self.decisive).sum())}
        for name, hits in (("accuracy_decisive", right), ("accuracy", likeliest)):
            found[name], found[f"{name}_error"] = share(hits)
        found["roc_area"] = _rounded(roc_area(*self.sides()))
        found["calibration_error"] = expected_error(reliability(self.confidence(), right))
        top = reliability(self.probabilities.max(axis=1), likeliest)
        return found | {"calibration_error_of_three": expected_error(top)}


def share(hits: Bool[np.ndarray, " N"]) -> tuple[float | None, float | None]:
    """Returns the share of hits and its standard error; None where there are no trials."""
    if not len(hits):
        return None, None
    mean = float(hits.mean())
    return round(mean, 4), round((mean * (1 - mean) / len(hits)) ** 0.5, 4)


def reliability(
    confidence: Float[np.ndarray, " N"], right: Bool[np.ndarray, " N"]
) -> list[dict[str, Any]]:
    """Returns a row for each of ten equal bins of confidence that is not empty: its bounds, how
    many, the mean confidence, and the share that was right.
    """
    index = np.minimum((confidence * BINS).astype(int), BINS - 1)
    rows = []
    for number in range(BINS):
        on = index == number
        if on.any():
            rows.append(
                {
                    "from": number / BINS,
                    "to": (number + 1) / BINS,
                    "pairs": int(on.sum()),
                    "confidence": round(float(confidence[on].mean()), 4),
                    "right": round(float(right[on].mean()), 4),
                }
            )
    return rows


def expected_error(rows: Sequence[dict[str, Any]]) -> float | None:
    """Returns the expected calibration error (Guo et al. 2017): |confidence - right|, a mean over
    bins by the pairs in them; None without any.
    """
    total = sum(row["pairs"] for row in rows)
    if not total:
        return None
    apart = sum(row["pairs"] * abs(row["confidence"] - row["right"]) for row in rows)
    return round(apart / total, 4)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Strengths:
    """Scores of clips and of their twins, stronger and stronger.

    strengths: 0, the clip itself, first. scores: for each kind clips x strengths; NaN where a twin
    came out like its original.
    """

    strengths: tuple[float, ...]
    scores: dict[str, Float[np.ndarray, "C S"]]

    def means(self, kind: str) -> Float[np.ndarray, " S"]:
        """Returns the mean score at each strength, over the clips that have twins at all of them.

        NaN where no clip has.
        """
        whole = self.scores[kind][~np.isnan(self.scores[kind]).any(axis=1)]
        return whole.mean(axis=0) if len(whole) else np.full(len(self.strengths), np.nan)

    def all_kinds(self) -> Float[np.ndarray, " S"]:
        """Returns the mean over the kinds that have means."""
        rows = np.array([self.means(kind) for kind in self.scores])
        whole = rows[~np.isnan(rows).any(axis=1)]
        return whole.mean(axis=0) if len(whole) else np.full(len(self.strengths), np.nan)

    def monotone(self, means: Float[np.ndarray, " S"]) -> float | None:
        """Returns Spearman's correlation of strength and fall of the score: 1 if each stronger
        twin is worse; None for means that are not there.
        """
        return _rounded(rank_correlation(np.array(self.strengths), -means))

    def summary(self) -> dict[str, Any]:
        """Returns the means by kind, over all kinds, and how monotone they are."""
        every = {**{kind: self.means(kind) for kind in self.scores}, "all": self.all_kinds()}
        return {
            "strengths": list(self.strengths),
            "score": {kind: [_rounded(v) for v in row] for kind, row in every.items()},
            "spearman": {kind: self.monotone(row) for kind, row in every.items()},
        }


def agreement(
    scores: Float[np.ndarray, "P F"], motion: Float[np.ndarray, "P F"], *, least: float
) -> dict[str, Any]:
    """Returns how often the reward and the judge prefer the same of two films for one prompt.

    scores, motion: of the F films for each of P prompts, by the reward and by the judge. Pairs that
    the judge puts less than `least` apart are left out.
    """
    first, second = np.triu_indices(scores.shape[1], 1)
    judged = motion[:, first] - motion[:, second]
    said = scores[:, first] - scores[:, second]
    clear = np.abs(judged) >= least
    same, error = share((np.sign(judged) == np.sign(said))[clear])
    return {
        "films": int(scores.size),
        "pairs": int(clear.sum()),
        "unclear": int((~clear).sum()),
        "same": same,
        "same_error": error,
        "spearman": _rounded(rank_correlation(scores.ravel(), motion.ravel())),
    }


def _rounded(value: float) -> float | None:
    return None if np.isnan(value) else round(float(value), 4)
