"""The train step: the only place in the package that takes a gradient of a loss."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from skyreels_jax.core.rng import stream
from skyreels_jax.core.tree import cast, path_name
from skyreels_jax.core.types import Batch, Params
from skyreels_jax.objectives.base import LossOutput, Objective
from skyreels_jax.training import ema
from skyreels_jax.training.state import TrainState

TrainStep = Callable[..., tuple[TrainState, dict[str, jax.Array]]]


def make_train_step(
    objective: Objective,
    tx: optax.GradientTransformation,
    graphdef: nnx.GraphDef,
    *,
    seed: int,
    ema_decay: float | None = None,
    accumulate: int = 1,
    compute_dtype: Any = None,
    kept: Callable[[str], bool] = lambda path: False,
    trained: Callable[[str], bool] | None = None,
) -> TrainStep:
    """Returns train_step(state, batch, rest, frozen=None) -> (state, metrics), to be jitted.

    It is pure; the state may be donated.
    The loss is total / weight of the whole batch, whatever the number of micro-batches: with
    `accumulate` = n every leaf of the batch is dealt out to n along its first axis, which n must
    divide, and the sums are added up. A leaf of one row is for all clips, and goes to each whole.
    Randomness is the stream "step" of `seed` at state.step (and the micro-batch's number).
    A step whose gradients are not finite changes nothing but `step` and `skipped`.

    graphdef, rest: the model without its parameters, from `nnx.split(model, nnx.Param, ...)`.
    `rest` is an argument: closed over, fixed weights would become constants of the program.
    ema_decay: None leaves state.ema as it is.
    compute_dtype: parameters, `rest` and `frozen` are cast to it for the forward and backward pass
    only, but for those that `kept`, a predicate over their paths, names. So gradients are of that
    type as well until all are added up; devices exchange them so.
    trained: predicate over parameter paths; no gradient is computed for the others.
    frozen: handed to the objective; any pytree, never donated.
    metrics: "loss", the objective's, "grad_norm" (before clipping), "skipped" (0 or 1); float32
    scalars.
    """

    def loss_sum(
        params: Params, batch: Batch, key, others: tuple[Any, Any]
    ) -> tuple[jax.Array, LossOutput]:
        params = _stop_untrained(params, trained)
        if compute_dtype is not None:
            params, others = (cast(tree, compute_dtype, kept=kept) for tree in (params, others))
        rest, frozen = others
        out = objective(nnx.merge(graphdef, params, rest), batch, key, frozen=frozen)
        return out.total.astype(jnp.float32), out

    gradient = jax.grad(loss_sum, has_aux=True)

    def train_step(state: TrainState, batch: Batch, rest: Any, frozen: Any = None):
        key = stream(seed, "step", state.step)
        if accumulate == 1:
            grads, out = gradient(state.params, batch, key, (rest, frozen))
        else:
            micro = functools.partial(gradient, others=(rest, frozen))
            grads, out = _accumulated(micro, state.params, batch, key, accumulate)
        weight = jnp.maximum(out.weight, jnp.finfo(jnp.float32).tiny)
        grads = jax.tree.map(lambda g: g / weight.astype(g.dtype), grads)
        norm = optax.tree.norm(grads)
        finite = jnp.isfinite(norm)
        state = _apply(state, grads, finite, tx, ema_decay)
        metrics = {name: value / weight for name, value in out.metrics.items()}
        metrics |= {"loss": out.total / weight, "grad_norm": norm, "skipped": 1 - finite}
        return state, {name: jnp.asarray(value, jnp.float32) for name, value in metrics.items()}

    return train_step


def _apply(
    state: TrainState, grads: Params, finite: jax.Array, tx, ema_decay: float | None
) -> TrainState:
    """One optimiser step, or none where the gradients are not finite."""

    def update(_):
        updates, opt_state = tx.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        if ema_decay is None:
            return params, opt_state, state.ema
        return params, opt_state, ema.update(state.ema, params, ema_decay, state.step)

    def keep(_):
        return state.params, state.opt_state, state.ema

    params, opt_state, average = jax.lax.cond(finite, update, keep, None)
    skipped = state.skipped + (1 - finite.astype(jnp.int32))
    return TrainState(state.step + 1, params, opt_state, average, skipped)


def _accumulated(gradient, params, batch, key, count: int) -> tuple[Params, LossOutput]:
    """Gradients and sums of `count` micro-batches, added up one after the other.

    Each takes every `count`-th clip, so that of a batch that is divided among devices it has as
    many on each.
    """

    def dealt(x: jax.Array) -> jax.Array:
        if len(x) == 1:  # one for all clips
            return jnp.broadcast_to(x, (count, *x.shape))
        return x.reshape(-1, count, *x.shape[1:]).swapaxes(0, 1)

    micro = jax.tree.map(dealt, batch)

    # Jitted, it is traced once for its result's shapes and for the loop, whose body is the only
    # place where the program has it: a first micro-batch outside would be all of it again.
    @jax.jit
    def one(index, batch):
        return gradient(params, batch, jax.random.fold_in(key, index))

    def body(sums, xs):
        return jax.tree.map(jnp.add, sums, one(*xs)), None

    xs = (jnp.arange(count), micro)
    shapes = jax.eval_shape(one, *jax.tree.map(lambda x: x[0], xs))
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    return jax.lax.scan(body, zeros, xs)[0]


def _stop_untrained(params: Params, trained: Callable[[str], bool] | None) -> Params:
    if trained is None:
        return params
    return jax.tree_util.tree_map_with_path(
        lambda path, p: p if trained(path_name(path)) else jax.lax.stop_gradient(p), params
    )
