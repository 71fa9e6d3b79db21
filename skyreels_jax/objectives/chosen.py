"""Fine-tuning on the better film of each pair: what preferences are to be compared with."""

import dataclasses
from typing import Any, Literal

from flax import nnx

from skyreels_jax.core.types import Batch, PRNGKey
from skyreels_jax.objectives.base import LossOutput
from skyreels_jax.objectives.diffusion_forcing import DiffusionForcing
from skyreels_jax.objectives.flow_matching import FlowMatching


@dataclasses.dataclass(frozen=True, kw_only=True)
class Chosen:
    """The loss of `velocity` on the chosen film of every pair; the rejected one is not looked at.

    batch: as for `FlowDPO`.  Metrics: those of `velocity`.
    """

    name: Literal["chosen"] = "chosen"
    velocity: FlowMatching | DiffusionForcing = dataclasses.field(default_factory=FlowMatching)

    def __call__(
        self, model: nnx.Module, batch: Batch, key: PRNGKey, *, frozen: Any = None
    ) -> LossOutput:
        return self.velocity(model, {**batch, "latents": batch["chosen"]}, key, frozen=frozen)
