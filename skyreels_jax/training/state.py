"""What training carries from step to step: a plain pytree, saved and restored as it is."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import SingleDeviceSharding
from jaxtyping import Array, Int

from skyreels_jax.core.types import Params
from skyreels_jax.parallel.placement import Placement, abstract


class TrainState(NamedTuple):
    """step counts batches seen, skipped ones included; `skipped` those whose gradients were not
    finite.

    ema: averaged parameters, a tree like `params`, or None when none are kept.
    """

    step: Int[Array, ""]
    params: Params
    opt_state: Any
    ema: Params | None
    skipped: Int[Array, ""]


def abstract_state(
    params: Params,
    tx: optax.GradientTransformation,
    *,
    ema: bool,
    placement: Placement | None = None,
) -> TrainState:
    """Returns the shapes of the state of such `params` (arrays or abstract arrays), and where each
    of its parts is to be: all that mirrors parameters is placed as they are.

    placement: None: it is on the first device.
    """
    state = jax.eval_shape(functools.partial(_first, tx=tx, ema=ema), params)
    if placement is not None:
        return abstract(state, placement.alike(state, params))
    one = SingleDeviceSharding(jax.local_devices()[0])
    return abstract(state, jax.tree.map(lambda _: one, state))


def init_state(
    params: Params,
    tx: optax.GradientTransformation,
    *,
    ema: bool,
    placement: Placement | None = None,
) -> TrainState:
    """Returns the state before the first step, placed as that of `abstract_state`; it owns copies,
    so that the step may be given it to destroy.
    """
    like = abstract_state(params, tx, ema=ema, placement=placement)
    where = jax.tree.map(lambda leaf: leaf.sharding, like)
    return jax.jit(functools.partial(_first, tx=tx, ema=ema), out_shardings=where)(params)


def _first(params: Params, *, tx: optax.GradientTransformation, ema: bool) -> TrainState:
    zero = jnp.zeros((), jnp.int32)
    average = jax.tree.map(jnp.copy, params) if ema else None
    return TrainState(
        zero, jax.tree.map(jnp.copy, params), tx.init(params), average, jnp.copy(zero)
    )
