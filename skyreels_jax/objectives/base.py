"""What a training objective is, and what it returns."""

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol, runtime_checkable

from flax import nnx
from jaxtyping import Array, Float

from skyreels_jax.core.types import Batch, PRNGKey

COUNT = ":count"


class LossOutput(NamedTuple):
    """Unreduced, so that accumulating micro-batches gives the exact weighted mean.

    total: sum of the losses of the samples.
    weight: how many samples that sum covers; total / weight is the loss.
    metrics: sums over the same samples; the step adds them over micro-batches and divides them
      by `weight`. A mean over only some samples (a bin of times, say) is a pair of sums, "name"
      and "name:count", which the step treats like any other metric; `report` divides one by the
      other when the numbers are written down.
    """

    total: Float[Array, ""]
    weight: Float[Array, ""]
    metrics: dict[str, Float[Array, ""]]


@runtime_checkable
class Objective(Protocol):
    """A callable value, differentiable in the model's parameters.

    `frozen` is whatever else the loss looks at and does not train: a reference model, a teacher.
    """

    def __call__(
        self, model: nnx.Module, batch: Batch, key: PRNGKey, *, frozen: Any = None
    ) -> LossOutput: ...


def report(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Returns floats; a pair ("name", "name:count") becomes its mean, or is left out when empty.

    Both members of a pair may have been divided by any common weight before.
    """
    out = {}
    for name, value in metrics.items():
        if name.endswith(COUNT):
            continue
        count = metrics.get(name + COUNT)
        if count is None:
            out[name] = float(value)
        elif float(count) > 0:
            out[name] = float(value) / float(count)
    return out
