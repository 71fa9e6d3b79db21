"""Exponential moving average of parameters."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from skyreels_jax.core.types import Params


def update(average: Params, params: Params, decay: float, step: Int[Array, ""]) -> Params:
    """Returns d * average + (1 - d) * params with d = min(decay, (1 + step) / (10 + step)).

    The ramp lets the average forget the random start in the first steps; `step` counts from 0.
    """
    count = step.astype(jnp.float32)
    rate = 1 - jnp.minimum(decay, (1 + count) / (10 + count))
    return jax.tree.map(
        lambda a, p: a + rate.astype(a.dtype) * (p.astype(a.dtype) - a), average, params
    )
