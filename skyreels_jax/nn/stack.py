"""Depth as a leading axis: equal blocks stored stacked, run by one scan, rematerialised or not."""

from collections.abc import Callable
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

from skyreels_jax.core.config import suggest
from skyreels_jax.core.errors import UserError
from skyreels_jax.kernels.attention import residuals

# A loop copies what the backward pass needs into stacks: on CPU the gradient of six layers of width
# 192 took 1.71 s of processor time looped, 1.54 s with lax.scan(unroll=True), 1.40 s written out.
UNROLLED = 8
# Each keeps less than the one before.
Remat = Literal["none", "dots", "attention", "block", "offload"]
REMAT = get_args(Remat)
INPUT = "layer_input"  # a name of what a policy keeps


def stack(make: Callable[[nnx.Rngs], nnx.Module], depth: int, *, rngs: nnx.Rngs) -> nnx.Module:
    """Returns `make(rngs)` with a new first axis of `depth` layers on all leaves, each drawn apart.

    `make` must not keep the generator it is given. The result is storage: call it through `scan`.
    """
    key = rngs.params()
    one = nnx.eval_shape(lambda: make(rngs if key is None else nnx.Rngs(params=0)))
    graphdef, state = nnx.split(one)
    if key is None:  # shapes alone are asked for
        state = jax.tree.map(lambda leaf: jnp.zeros((depth, *leaf.shape), leaf.dtype), state)
    else:
        keys = jax.random.split(key, depth)
        state = jax.vmap(lambda key: nnx.state(make(nnx.Rngs(params=key))))(keys)
    return nnx.merge(graphdef, state)


def _policy(remat: str) -> Callable[..., Any] | None:
    policies = jax.checkpoint_policies
    if remat == "dots":
        return policies.save_from_both_policies(
            policies.dots_with_no_batch_dims_saveable, residuals.keeps
        )
    if remat == "attention":
        return residuals.keeps
    if remat == "offload":
        return policies.save_and_offload_only_these_names(
            names_which_can_be_saved=[],
            names_which_can_be_offloaded=[INPUT],
            offload_src="device",
            offload_dst="pinned_host",
        )
    return None


def fold(
    stacked: nnx.Module,
    step: Callable[[nnx.Module, Any, Any], tuple[Any, Any]],
    carry: Any,
    each: Any = None,
    *,
    remat: str = "none",
) -> tuple[Any, Any]:
    """Returns the carry after `carry, out = step(layer, carry, own)` for every layer of `stacked`,
    and the outs stacked.

    each: a tree whose leaves have the layers as their first axis; `own` is one layer's part of it.
    A shallow stack (depth <= UNROLLED) is written out instead of looped over.
    `remat`: what is kept for the backward pass: "none" every intermediate, "attention" the input of
    each layer and what `kernels.attention.residuals` marks (attention is the dearest to do again),
    "dots" the same and the results of products with weights, "block" the input alone, "offload" the
    same in the host's memory, where the backend can. Else raises `UserError`.
    """
    graphdef, state = nnx.split(stacked)
    depth = jax.tree.leaves(state)[0].shape[0]

    def layer(carry: Any, own: Any) -> tuple[Any, Any]:
        carry = jax.tree.map(lambda x: checkpoint_name(x, INPUT), carry)
        return step(nnx.merge(graphdef, own[0]), carry, own[1])

    if remat not in REMAT:
        raise UserError(f"remat {remat!r} is not known{suggest(remat, REMAT)}")
    if remat != "none":
        # Only written out could the compiler merge the recomputation with the forward pass.
        layer = jax.checkpoint(layer, prevent_cse=depth <= UNROLLED, policy=_policy(remat))
    if depth > UNROLLED:
        return jax.lax.scan(layer, carry, (state, each))
    outs = []
    for index in range(depth):
        own = jax.tree.map(lambda leaf, index=index: leaf[index], (state, each))
        carry, out = layer(carry, own)
        outs.append(out)
    return carry, jax.tree.map(lambda *leaves: jnp.stack(leaves), *outs)


def scan(stacked: nnx.Module, carry: Any, *args: Any, remat: str = "none", **kwargs: Any) -> Any:
    """Returns the carry after `carry = layer(carry, *args, **kwargs)` for every layer of `stacked`.

    remat: as in `fold`.
    """

    def step(layer: nnx.Module, carry: Any, own: None) -> tuple[Any, None]:
        return layer(carry, *args, **kwargs), own

    return fold(stacked, step, carry, remat=remat)[0]
