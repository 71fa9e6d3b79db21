"""What training carries from step to step: a plain pytree, saved and restored as it is."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int

from skyreels_jax.core.types import Params
from skyreels_jax.parallel.placement import Placement


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


def init_state(
    params: Params,
    tx: optax.GradientTransformation,
    *,
    ema: bool,
    placement: Placement | None = None,
) -> TrainState:
    """Returns the state before the first step; it owns copies, so that the step may be given it to
    destroy. All that mirrors parameters is placed as they are.
    """

    def start(params: Params) -> TrainState:
        zero = jnp.zeros((), jnp.int32)
        average = jax.tree.map(jnp.copy, params) if ema else None
        return TrainState(
            zero, jax.tree.map(jnp.copy, params), tx.init(params), average, jnp.copy(zero)
        )

    where = None if placement is None else placement.alike(jax.eval_shape(start, params), params)
    # Without a mesh, too, all leaves come out placed alike: one program for every step.
    return jax.jit(start, out_shardings=where)(params)
