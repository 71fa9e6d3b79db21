"""Bradley-Terry with ties: of two films one moves better, or neither does."""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from skyreels_jax.core.errors import UserError
from skyreels_jax.core.labels import BETTER, TIE
from skyreels_jax.core.types import Batch, PRNGKey
from skyreels_jax.objectives.base import COUNT, LossOutput


@dataclasses.dataclass(frozen=True, kw_only=True)
class BradleyTerry:
    """-ln P(label) of the scores of two films, a mean over the pairs that have a label.

    With d the chosen film's score less the rejected one's (Rao and Kupper 1967; VideoAlign, Liu et
    al. 2025, arXiv 2501.13918, `k` = 5; SkyReels-V2, arXiv 2504.13074, section on reinforcement
    learning):
      P(better) = sigmoid(d - ln k), P(worse) = sigmoid(-d - ln k),
      P(tie) = (k^2 - 1) P(better) P(worse).
    The model is called with both films of all pairs at once and is told nothing else: no prompt.

    batch: {"chosen", "rejected": [B, T, H, W, 3] in [-1, 1], "label": int [B], one of `BETTER`,
      `WORSE`, `TIE`; a pair with any other label counts for nothing}.
    The total is a sum over the pairs that count, the weight their number.
    Metrics: "accuracy": the label is the likeliest of the three; "accuracy_decisive": the better
    film of a pair that is no tie has the higher score; "margin": by how much; "score": the mean one
    (nothing holds it in place). Raises `UserError` for k <= 1, where there could be no tie.
    """

    k: float = 5.0

    def __post_init__(self):
        if not (self.k > 1 and math.isfinite(self.k)):
            raise UserError(f"objective.k must be more than 1, got {self.k:g}")

    def __call__(
        self, model: nnx.Module, batch: Batch, key: PRNGKey, *, frozen: Any = None
    ) -> LossOutput:
        del key, frozen
        scores = model(jnp.concatenate([batch["chosen"], batch["rejected"]]))
        chosen, rejected = jnp.split(scores.astype(jnp.float32), 2)
        return self.judged(chosen, rejected, batch["label"])

    def judged(
        self, chosen: Float[Array, " B"], rejected: Float[Array, " B"], label: Int[Array, " B"]
    ) -> LossOutput:
        """Returns what the call does, from scores."""
        difference = chosen - rejected
        log_p = log_probabilities(difference, k=self.k)
        known = (label >= BETTER) & (label <= TIE)
        picked = jnp.take_along_axis(log_p, jnp.where(known, label, 0)[:, None], axis=1)[:, 0]
        loss = jnp.where(known, -picked, 0.0)
        decisive = known & (label != TIE)
        margin = jnp.where(label == BETTER, difference, -difference)
        weights = {
            "accuracy": (known, jnp.argmax(log_p, axis=1) == label),
            "score": (known, (chosen + rejected) / 2),
            "accuracy_decisive": (decisive, margin > 0),
            "margin": (decisive, margin),
        }
        metrics = {name: jnp.where(on, value, 0.0).sum() for name, (on, value) in weights.items()}
        pairs = decisive.sum().astype(jnp.float32)
        metrics |= {f"{name}{COUNT}": pairs for name in ("accuracy_decisive", "margin")}
        return LossOutput(loss.sum(), known.sum().astype(jnp.float32), metrics)


def log_probabilities(difference: Float[Array, " B"], *, k: float = 5.0) -> Float[Array, "B 3"]:
    """Returns ln of P(better), P(worse), P(tie), which sum to one; finite for all finite scores."""
    difference = difference.astype(jnp.float32)
    threshold = math.log(k)
    better = jax.nn.log_sigmoid(difference - threshold)
    worse = jax.nn.log_sigmoid(-difference - threshold)
    tie = better + worse + math.log(k * k - 1)
    return jnp.stack([better, worse, tie], axis=-1)
