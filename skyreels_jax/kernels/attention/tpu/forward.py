"""Attention's forward pass on TPUs.

Scores are made as S^T = K Q^T, [keys, queries]: maxima and sums over keys are then sums of
registers, what belongs to a query lies along lanes, and O^T = V^T P^T has P^T as the operand that
stays in the matrix unit, in which heads of 128 fill 256 columns. exp is 2^x, the factor in q.

Where |q| |k| bounds a tile's scores by `BOUND`, 2^s and its sums stay in float32's range as they
are and no maximum is subtracted. Elsewhere the running maximum is (Milakov, Gimelshein 2018).
"""

import functools
from typing import Any

import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array, Float, Int

from skyreels_jax.kernels.attention.mask import MASKED
from skyreels_jax.kernels.attention.tpu import common
from skyreels_jax.kernels.attention.tpu.common import LN_2, NN, NT, Plan, dot
from skyreels_jax.kernels.attention.tpu.tiles import LANES, Tiles

# Of the exponent: 2^80 times 2^20 keys times values of 2^20 is a float32, and so is 2^-80.
BOUND = 80.0


def _kernel(
    length_ref, bounded_ref, q_ref, k_ref, vt_ref, bias_ref, out_ref, lse_ref, top_ref, sum_ref,
    acc_ref, *, plan: Plan, online: bool,
):  # fmt: skip
    tiles: Tiles = plan.passes.forward
    batch, head, i, j = (pl.program_id(axis) for axis in range(4))
    length = length_ref[batch]
    row = (batch * pl.num_programs(1) + head) * pl.num_programs(2) + i
    bounded = bounded_ref[row] != 0

    @pl.when(j == 0)
    def _():
        top_ref[...] = jnp.full(top_ref.shape, jnp.where(bounded, 0.0, MASKED), jnp.float32)
        sum_ref[...] = jnp.zeros_like(sum_ref)
        acc_ref[...] = jnp.zeros_like(acc_ref)

    def scores(a: Any, b: Any) -> Array:
        key, query = k_ref[pl.ds(b, tiles.part_kv), :], q_ref[pl.ds(a, tiles.part_q), :]
        return dot(key, query, NT)

    def add(b: Any, share: Array) -> tuple[Array, Array]:
        value = vt_ref[:, pl.ds(b, tiles.part_kv)]
        total = share.reshape(-1, 8, tiles.part_q).sum(0)
        return total, dot(value, share.astype(value.dtype), NN)

    def bounded_part(place: tuple[int, int], s: Array) -> None:
        at = pl.ds(place[0], tiles.part_q)
        total, new = add(place[1], jnp.exp2(s))
        sum_ref[:, at] += total
        acc_ref[:, at] += new

    def any_part(a: Any, b: Any) -> None:
        at, s = pl.ds(a, tiles.part_q), scores(a, b)
        if plan.biased:
            s = s + common.across(bias_ref[pl.ds(b, tiles.part_kv), :], tiles.part_q)
        place = (i * tiles.q + a, j * tiles.kv + b)
        seen = plan.seen(*place, s.shape, axis=1, length=length)
        s = jnp.where(seen, s, MASKED)
        old = top_ref[:, at]
        top = jnp.where(bounded, old, jnp.maximum(old, s.max(0, keepdims=True)))
        again = jnp.exp2(old - top)
        # A hidden key counts nothing even where its query has seen none yet.
        total, new = add(b, jnp.where(s <= MASKED / 2, 0.0, jnp.exp2(s - top)))
        top_ref[:, at] = top
        sum_ref[:, at] = sum_ref[:, at] * again + total
        acc_ref[:, at] = acc_ref[:, at] * again + new

    some = plan.some(tiles, i, j, length)
    quick = jnp.logical_and(bounded, plan.every(tiles, i, j, length))

    @pl.when(jnp.logical_and(some, quick))
    def _():
        places = common.parts(tiles, queries_first=True)
        common.pipelined(places, scores, bounded_part, ahead=tiles.ahead)

    if plan.masked or online:

        @pl.when(jnp.logical_and(some, jnp.logical_not(quick)))
        def _():
            common.one_by_one(plan, tiles, (i, j, length), any_part)

    @pl.when(j == pl.num_programs(3) - 1)
    def _():
        total = sum_ref[...].sum(0, keepdims=True)
        empty = total == 0.0
        out = acc_ref[...] / jnp.where(empty, 1.0, total)
        out_ref[...] = out.astype(out_ref.dtype)
        lse = (top_ref[...] + jnp.log2(jnp.where(empty, 1.0, total))) * LN_2
        lse_ref[...] = jnp.where(empty, MASKED, lse)


def forward(
    q: Float[Array, "B N L K"],
    k: Float[Array, "B N S K"],
    vt: Float[Array, "B N K S"],
    *,
    length: Int[Array, "B"],
    bias: Float[Array, "B S"] | None,
    plan: Plan,
    online: bool = True,
) -> tuple[Float[Array, "B N K L"], Float[Array, "B N 1 L"]]:
    """Returns the output and log-sum-exp of full tiles; q has the scale and log2 e in it, bias is
    log2 of the weights of keys.

    online: False leaves out what scores without a bound need, for benchmarks.
    """
    tiles = plan.passes.forward
    batch, heads, queries, width = q.shape
    tiles_q = queries // tiles.q
    bounded = _bounded(q, k, bias, tiles_q) if online else jnp.ones(batch * heads * tiles_q, int)

    def keys(b, n, i, j, length, bounded):
        return b, n, jnp.minimum(j, plan.last_kv(tiles, i, length[b])), 0

    def values(b, n, i, j, *scalars):
        b, n, j, _ = keys(b, n, i, j, *scalars)
        return b, n, 0, j

    def query(b, n, i, j, *_):
        return b, n, i, 0

    def query_t(b, n, i, j, *_):
        return b, n, 0, i

    def of_bias(b, n, i, j, *scalars):
        return b, keys(b, n, i, j, *scalars)[2], 0

    kernel = functools.partial(_kernel, plan=plan, online=online)
    specs = [
        pl.BlockSpec((None, None, tiles.q, width), query),
        pl.BlockSpec((None, None, tiles.kv, width), keys),
        pl.BlockSpec((None, None, width, tiles.kv), values),
    ]
    inputs = [q, k, vt]
    if bias is None:
        kernel = common.without(kernel, 5)
    else:
        specs.append(pl.BlockSpec((None, tiles.kv, LANES), of_bias))
        inputs.append(jnp.broadcast_to(bias[:, :, None], (*bias.shape, LANES)))
    return common.call(
        kernel,
        plan,
        "attention_forward",
        num_scalar_prefetch=2,
        grid=(batch, heads, tiles_q, k.shape[2] // tiles.kv),
        in_specs=specs,
        out_specs=[
            pl.BlockSpec((None, None, width, tiles.q), query_t),
            pl.BlockSpec((None, None, 1, tiles.q), query_t),
        ],
        scratch_shapes=[
            pltpu.VMEM((1, tiles.q), jnp.float32),
            pltpu.VMEM((8, tiles.q), jnp.float32),
            pltpu.VMEM((width, tiles.q), jnp.float32),
        ],
        out_shape=[
            common.struct((batch, heads, width, queries), q.dtype),
            common.struct((batch, heads, 1, queries), jnp.float32),
        ],
    )(length, bounded.astype(jnp.int32), *inputs)


def _bounded(q: Array, k: Array, bias: Array | None, tiles: int) -> Array:
    """Returns for which samples, heads and tiles of queries the scores are bounded, flat."""

    def longest(x: Array) -> Array:
        return jnp.sqrt(jnp.max(jnp.sum(jnp.square(x.astype(jnp.float32)), -1), -1))

    query = longest(q.reshape(*q.shape[:2], tiles, -1, q.shape[-1]))
    bound = query * longest(k)[:, :, None]
    if bias is not None:
        bound = bound + jnp.max(jnp.where(bias > MASKED / 2, jnp.abs(bias), 0.0), -1)[:, None, None]
    return (bound <= BOUND).reshape(-1)
