"""Attention's backward pass on TPUs, in two kernels, both of which make the scores again.

dq: scores as [keys, queries], as the forward pass has them; dQ^T = K^T dS^T.
dk, dv: scores as [queries, keys], so that dV^T = dO^T P and dK^T = Q^T dS; what belongs to a query
then lies along sublanes and comes repeated over lanes.
P = 2^(s - log2-sum), dS = P (dO V^T - delta), delta = sum(dO O) - d log-sum-exp (Dao 2023).
"""

import functools
from typing import Any

import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array, Float, Int

from skyreels_jax.kernels.attention.tpu import common
from skyreels_jax.kernels.attention.tpu.common import LN_2, NN, NT, Plan, across, dot
from skyreels_jax.kernels.attention.tpu.tiles import LANES, Tiles


def _dq_kernel(
    length_ref, q_ref, k_ref, v_ref, kt_ref, do_ref, lse_ref, delta_ref, bias_ref, dq_ref, acc_ref,
    *, plan: Plan,
):  # fmt: skip
    tiles = plan.passes.dq
    batch, i, j = pl.program_id(0), pl.program_id(2), pl.program_id(3)
    length = length_ref[batch]

    @pl.when(j == 0)
    def _():
        acc_ref[...] = jnp.zeros_like(acc_ref)

    def begin(a: Any, b: Any) -> tuple[Array, Array]:
        query, key = pl.ds(a, tiles.part_q), pl.ds(b, tiles.part_kv)
        return dot(k_ref[key, :], q_ref[query, :], NT), dot(v_ref[key, :], do_ref[query, :], NT)

    def finish(place: Any, begun: tuple[Array, Array], hide: Any = lambda share: share) -> None:
        (a, b), (s, dp) = place, begun
        at = pl.ds(a, tiles.part_q)
        if plan.biased:
            s = s + across(bias_ref[pl.ds(b, tiles.part_kv), :], tiles.part_q)
        share = hide(jnp.exp2(s - lse_ref[:, at]))
        ds = share * (dp - delta_ref[:, at])
        key = kt_ref[:, pl.ds(b, tiles.part_kv)]
        acc_ref[:, at] += dot(key, ds.astype(key.dtype), NN)

    _run(plan, tiles, (i, j, length), begin, finish, axis=1)

    @pl.when(j == pl.num_programs(3) - 1)
    def _():
        dq_ref[...] = (acc_ref[...] * plan.scale).astype(dq_ref.dtype)


def _dkv_kernel(
    length_ref, q_ref, qt_ref, k_ref, v_ref, do_ref, dot_ref, lse_ref, delta_ref, bias_ref, dk_ref,
    dv_ref, dk_acc_ref, dv_acc_ref, *, plan: Plan,
):  # fmt: skip
    tiles = plan.passes.dkv
    batch, j, i = pl.program_id(0), pl.program_id(2), pl.program_id(3)
    length = length_ref[batch]

    @pl.when(i == 0)
    def _():
        dk_acc_ref[...] = jnp.zeros_like(dk_acc_ref)
        dv_acc_ref[...] = jnp.zeros_like(dv_acc_ref)

    def begin(a: Any, b: Any) -> tuple[Array, Array]:
        query, key = pl.ds(a, tiles.part_q), pl.ds(b, tiles.part_kv)
        return dot(q_ref[query, :], k_ref[key, :], NT), dot(do_ref[query, :], v_ref[key, :], NT)

    def finish(place: Any, begun: tuple[Array, Array], hide: Any = lambda share: share) -> None:
        (a, b), (s, dp) = place, begun
        query, at = pl.ds(a, tiles.part_q), pl.ds(b, tiles.part_kv)
        if plan.biased:
            s = s + bias_ref[:, at]
        share = hide(jnp.exp2(s - across(lse_ref[query, :], tiles.part_kv)))
        do_t, q_t = dot_ref[:, query], qt_ref[:, query]
        dv_acc_ref[:, at] += dot(do_t, share.astype(do_t.dtype), NN)
        ds = share * (dp - across(delta_ref[query, :], tiles.part_kv))
        dk_acc_ref[:, at] += dot(q_t, ds.astype(q_t.dtype), NN)

    _run(plan, tiles, (i, j, length), begin, finish, axis=0)

    @pl.when(i == pl.num_programs(3) - 1)
    def _():
        dk_ref[...] = (dk_acc_ref[...] * LN_2).astype(dk_ref.dtype)
        dv_ref[...] = dv_acc_ref[...].astype(dv_ref.dtype)


def _run(plan: Plan, tiles: Tiles, at: tuple, begin: Any, finish: Any, *, axis: int) -> None:
    """Does a tile: in one piece where all queries see all keys, masked where some do.

    axis: of the scores, that of queries. Parts that add to the same queries (axis 1), or keys (0),
    come one after the other.
    """
    some, every = plan.some(tiles, *at), plan.every(tiles, *at)
    i, j, length = at

    def any_part(a: Any, b: Any) -> None:
        def hide(share: Array) -> Array:
            place = (i * tiles.q + a, j * tiles.kv + b)
            seen = plan.seen(*place, share.shape, axis=axis, length=length)
            return jnp.where(seen, share, 0.0)

        finish((a, b), begin(a, b), hide)

    @pl.when(jnp.logical_and(some, every))
    def _():
        places = common.parts(tiles, queries_first=axis == 1)
        common.pipelined(places, begin, finish, ahead=tiles.ahead)

    if plan.masked:

        @pl.when(jnp.logical_and(some, jnp.logical_not(every)))
        def _():
            common.one_by_one(plan, tiles, at, any_part)


def backward_dq(
    q: Float[Array, "B N L K"],
    k: Float[Array, "B N S K"],
    v: Float[Array, "B N S K"],
    do: Float[Array, "B N L K"],
    *,
    lse: Float[Array, "B N L"],
    delta: Float[Array, "B N L"],
    length: Int[Array, "B"],
    bias: Float[Array, "B S"] | None,
    plan: Plan,
) -> Float[Array, "B N K L"]:
    """Returns the gradient of the queries before scale and log2 e; lse in powers of two."""
    tiles = plan.passes.dq
    batch, heads, queries, width = q.shape

    def keys(b, n, i, j, length):
        return b, n, jnp.minimum(j, plan.last_kv(tiles, i, length[b])), 0

    def keys_t(b, n, i, j, length):
        return b, n, 0, keys(b, n, i, j, length)[2]

    def query(b, n, i, j, _):
        return b, n, i, 0

    def query_t(b, n, i, j, _):
        return b, n, 0, i

    def of_bias(b, n, i, j, length):
        return b, keys(b, n, i, j, length)[2], 0

    of_q = pl.BlockSpec((None, None, tiles.q, width), query)
    of_kv = pl.BlockSpec((None, None, tiles.kv, width), keys)
    of_kt = pl.BlockSpec((None, None, width, tiles.kv), keys_t)
    row = pl.BlockSpec((None, None, 1, tiles.q), query_t)
    specs = [of_q, of_kv, of_kv, of_kt, of_q, row, row]
    inputs = [q, k, v, jnp.swapaxes(k, 2, 3), do, lse[:, :, None], delta[:, :, None]]
    kernel = functools.partial(_dq_kernel, plan=plan)
    if bias is None:
        kernel = common.without(kernel, 8)
    else:
        specs.append(pl.BlockSpec((None, tiles.kv, LANES), of_bias))
        inputs.append(jnp.broadcast_to(bias[:, :, None], (*bias.shape, LANES)))
    return common.call(
        kernel,
        plan,
        "attention_dq",
        num_scalar_prefetch=1,
        grid=(batch, heads, queries // tiles.q, k.shape[2] // tiles.kv),
        in_specs=specs,
        out_specs=pl.BlockSpec((None, None, width, tiles.q), query_t),
        scratch_shapes=[pltpu.VMEM((width, tiles.q), jnp.float32)],
        out_shape=common.struct((batch, heads, width, queries), q.dtype),
    )(length, *inputs)


def backward_dkv(
    q: Float[Array, "B N L K"],
    k: Float[Array, "B N S K"],
    v: Float[Array, "B N S K"],
    do: Float[Array, "B N L K"],
    *,
    lse: Float[Array, "B N L"],
    delta: Float[Array, "B N L"],
    length: Int[Array, "B"],
    bias: Float[Array, "B S"] | None,
    plan: Plan,
) -> tuple[Float[Array, "B N K S"], Float[Array, "B N K S"]]:
    """Returns the gradients of keys and values; q has scale and log2 e in it."""
    tiles = plan.passes.dkv
    batch, heads, keys, width = k.shape

    def query(b, n, j, i, _):
        return b, n, jnp.maximum(i, plan.first_q(tiles, j)), 0

    def query_t(b, n, j, i, _):
        return b, n, 0, query(b, n, j, i, _)[2]

    def key(b, n, j, i, _):
        return b, n, j, 0

    def key_t(b, n, j, i, _):
        return b, n, 0, j

    of_q = pl.BlockSpec((None, None, tiles.q, width), query)
    of_qt = pl.BlockSpec((None, None, width, tiles.q), query_t)
    of_kv = pl.BlockSpec((None, None, tiles.kv, width), key)
    column = pl.BlockSpec((None, None, tiles.q, LANES), query)
    specs = [of_q, of_qt, of_kv, of_kv, of_q, of_qt, column, column]
    lse, delta = (jnp.broadcast_to(x[..., None], (*x.shape, LANES)) for x in (lse, delta))
    inputs = [q, jnp.swapaxes(q, 2, 3), k, v, do, jnp.swapaxes(do, 2, 3), lse, delta]
    kernel = functools.partial(_dkv_kernel, plan=plan)
    if bias is None:
        kernel = common.without(kernel, 9)
    else:
        specs.append(pl.BlockSpec((None, 1, tiles.kv), lambda b, n, j, i, _: (b, 0, j)))
        inputs.append(bias[:, None])
    gradient = pl.BlockSpec((None, None, width, tiles.kv), key_t)
    return common.call(
        kernel,
        plan,
        "attention_dkv",
        num_scalar_prefetch=1,
        grid=(batch, heads, keys // tiles.kv, q.shape[2] // tiles.q),
        in_specs=specs,
        out_specs=[gradient, gradient],
        scratch_shapes=[pltpu.VMEM((width, tiles.kv), jnp.float32)] * 2,
        out_shape=[common.struct((batch, heads, width, keys), k.dtype)] * 2,
    )(length, *inputs)
