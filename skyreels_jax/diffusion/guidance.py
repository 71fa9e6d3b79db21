"""Velocity functions from models: with conditions, and with classifier-free guidance.

A velocity function is `(x, timestep [B, #T]) -> v`. Those made here are `jax.tree_util.Partial`:
pytrees whose leaves are the model's parameters, the conditions and the guidance scale. They go
through `jax.jit` as arguments, and new text, weights or another scale compile nothing.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial
from jaxtyping import Array, Float

from skyreels_jax.core.types import Latents, Time

Forgetful = Callable[[Latents, Time], Latents]
Remembering = Callable[[Latents, Time, Any], tuple[Latents, Any]]  # a memory too, see step_cache
VelocityFn = Forgetful | Remembering


def conditional(model: Callable, cond: Mapping[str, Any]) -> Partial:
    """Returns the velocity function `model(x, t, **cond)`.

    model: a pytree that can be called: an nnx.Module, or `Partial(function, params)` with a
    function that stays the same object from call to call.
    cond: arrays with the batch as their first axis.
    """
    return Partial(conditional_velocity, model, dict(cond))


def guided(
    model: Callable,
    cond: Mapping[str, Any],
    null_cond: Mapping[str, Any],
    scale: float | Float[Array | np.ndarray, ""],
) -> Partial:
    """Returns the velocity function u + scale (c - u), u and c the model's under each condition.

    Both are computed in one call on twice the batch, so `cond` and `null_cond` (the empty or the
    negative prompt) must agree in names and shapes. Scale 1 is `conditional` at half the price;
    the caller chooses, because the scale may be a traced value here.
    Source: Ho and Salimans 2022, "Classifier-free diffusion guidance".
    """
    return Partial(guided_velocity, model, dict(cond), dict(null_cond), jnp.float32(scale))


def conditional_velocity(model: Callable, cond: dict, x: Latents, timestep: Time) -> Latents:
    return model(x, timestep, **cond)


def guided_velocity(
    model: Callable, cond: dict, null_cond: dict, scale: Array, x: Latents, timestep: Time
) -> Latents:
    def stack(null, cond):
        return jnp.concatenate([null, cond])

    both = jax.tree.map(stack, null_cond, cond)
    v = model(stack(x, x), stack(timestep, timestep), **both).astype(jnp.float32)
    null, full = jnp.split(v, 2)
    return null + scale * (full - null)
