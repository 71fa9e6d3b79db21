"""Flow matching: mean squared error of the predicted velocity at random times."""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp

from skyreels_jax.core.types import Batch, PRNGKey
from skyreels_jax.objectives.velocity import NoiseLevels, VelocityObjective


@dataclasses.dataclass(frozen=True, kw_only=True)
class FlowMatching(VelocityObjective):
    """One noise level per clip, all its frames counted: full-sequence diffusion."""

    name: Literal["flow_matching"] = "flow_matching"

    def draw_levels(self, key: PRNGKey, batch: Batch) -> NoiseLevels:
        shape = (batch["latents"].shape[0], 1)
        sigma = self.quantile(jax.random.uniform(key, shape, jnp.float32))
        return NoiseLevels(sigma, jnp.ones(shape, bool), {})
