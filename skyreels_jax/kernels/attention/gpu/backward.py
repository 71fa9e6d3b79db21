"""The backward kernels of attention on Hopper GPUs: one for the queries' gradient, one for those of
keys and values (FlashAttention-2's split, Dao 2023, arXiv 2307.08691), so that nothing is added up
across programs: the result is the same every time.

With P = exp2(S - lse) and D = rowsum(dO * O) - dlse: dS = P * (dO V^T - D), dQ = scale dS K,
dK = scale dS^T Q, dV = P^T dO.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu
from jaxtyping import Array, Float, Int

from skyreels_jax.kernels.attention.gpu.parts import (
    LOG2E,
    ROWS,
    Sizes,
    along,
    drain,
    give_back,
    hide_later_blocks,
    kernel,
    key_steps,
    multiply,
    query_steps,
    read,
    rest,
    share_registers,
    spare,
    whole,
)


def backward_queries(
    q: Float[Array, "B L N K"],
    k: Float[Array, "B S N K"],
    v: Float[Array, "B S N K"],
    bias: Float[Array, "B S"],
    lengths: Int[Array, "B"],
    dout: Float[Array, "B L N K"],
    lse: Float[Array, "B N L"],
    delta: Float[Array, "B N L"],
    *,
    sizes: Sizes,
) -> Float[Array, "B L N K"]:
    """Returns the gradient of q; arguments as in `forward`, lse in base 2 (huge: no keys)."""
    batch, length, heads, width = q.shape
    consumers, columns, stages = sizes.consumers, sizes.columns, sizes.stages
    scratch = [
        *(whole(consumers, ROWS, width, dtype=q.dtype) for _ in range(2)),
        *(whole(stages, columns, width, dtype=q.dtype) for _ in range(2)),
        plgpu.SMEM((stages, columns), jnp.float32),
        *(plgpu.SMEM((consumers, ROWS), jnp.float32) for _ in range(2)),
        plgpu.Barrier(num_barriers=consumers, num_arrivals=4),
        plgpu.Barrier(num_barriers=stages, num_arrivals=3),
        plgpu.Barrier(num_barriers=stages, num_arrivals=consumers),
        spare(sizes, count=1, dtype=q.dtype),
    ]
    run = kernel(
        functools.partial(_queries_body, sizes=sizes),
        name="backward_queries",
        sizes=sizes,
        grid=(batch, heads, length // sizes.rows),
        out=[jax.ShapeDtypeStruct(q.shape, q.dtype)],
        scratch=scratch,
    )
    return run(q, k, v, bias, lengths, dout, lse, delta)[0]


def _queries_body(q, k, v, bias, lengths, dout, lse, delta, dq, *scratch, sizes: Sizes) -> None:
    tile, group = lax.axis_index("tile"), lax.axis_index("warpgroup")
    if sizes.causal is not None:  # the longest first
        tile = jnp.int32(dq.shape[1] // sizes.rows - 1) - tile
    batch, head = lax.axis_index("batch"), lax.axis_index("head")
    full, steps = key_steps(sizes, tile, lengths[batch])
    if sizes.weighted:
        full = jnp.int32(0)

    @pl.when(group == sizes.consumers)
    def _():
        share_registers(sizes, copier=True)
        _, _, k_ring, v_ring, bias_ring, _, _, _, filled, emptied, _ = scratch

        @pl.loop(jnp.int32(0), steps)
        def _(step):
            slot = rest(step, sizes.stages)
            tokens = pl.ds(step * jnp.int32(sizes.columns), sizes.columns)
            pl.when(step >= sizes.stages)(lambda: plgpu.barrier_wait(emptied.at[slot]))
            for source, ring in (
                (k.at[batch, tokens, head], k_ring),
                (v.at[batch, tokens, head], v_ring),
                (bias.at[batch, tokens], bias_ring),
            ):
                plgpu.copy_gmem_to_smem(source, ring.at[slot], filled.at[slot])

        drain(steps, sizes, emptied)

    @pl.when(group < sizes.consumers)
    def _():
        share_registers(sizes, copier=False)
        rows = tile * jnp.int32(sizes.rows) + group * jnp.int32(ROWS)
        _queries(q, dout, lse, delta, dq, scratch, rows, full, steps, sizes=sizes)


def _queries(q, dout, lse, delta, dq, scratch, rows, full, steps, *, sizes: Sizes) -> None:
    q_own, do_own, k_ring, v_ring, bias_ring, lse_own, delta_own, *more = scratch
    ready, filled, emptied, operands = more
    batch, head, own = (lax.axis_index(x) for x in ("batch", "head", "warpgroup"))
    tokens, shape, width = pl.ds(rows, ROWS), (ROWS, sizes.columns), q.shape[-1]
    factor = sizes.scale * LOG2E
    for source, place in (
        (q.at[batch, tokens, head], q_own),
        (dout.at[batch, tokens, head], do_own),
        (lse.at[batch, head, tokens], lse_own),
        (delta.at[batch, head, tokens], delta_own),
    ):
        plgpu.copy_gmem_to_smem(source, place.at[own], ready.at[own])
    plgpu.barrier_wait(ready.at[own])
    log_sum, less = (read(ref.at[own], of_rows=True) for ref in (lse_own, delta_own))

    def one(step, masked: bool, total) -> None:
        slot = rest(step, sizes.stages)
        plgpu.barrier_wait(filled.at[slot])

        def logits_and_shares(found, given):
            plgpu.wgmma(found, q_own.at[own], k_ring.at[slot].T)
            plgpu.wgmma(given, do_own.at[own], v_ring.at[slot].T)
            logits = plgpu.wgmma_accumulator_load(found, wait_n=1)
            if masked:
                logits = logits + along(read(bias_ring.at[slot], of_rows=False), shape, 1)
                if sizes.causal is not None:
                    column = step * jnp.int32(sizes.columns)
                    logits = hide_later_blocks(
                        logits, sizes, row=rows, column=column, rows="queries"
                    )
            share = jnp.exp2(logits * factor - along(log_sum, shape, 0))
            return share * (given[...] - along(less, shape, 0))

        parts = [plgpu.ACC(shape, jnp.float32)] * 2
        change = pl.run_scoped(logits_and_shares, *parts).astype(q.dtype)
        place = None if operands is None else operands.at[own, 0]
        multiply(total, change, k_ring.at[slot], place)
        plgpu.wgmma_wait(0)
        give_back(emptied.at[slot], was_read=masked)

    def run(total):
        whole_steps = lax.min(full, steps)
        pl.loop(jnp.int32(0), whole_steps)(lambda step: one(step, False, total))
        if sizes.weighted or sizes.cut or sizes.causal is not None:
            pl.loop(whole_steps, steps)(lambda step: one(step, True, total))
        return total[...]

    found = pl.run_scoped(run, plgpu.ACC((ROWS, width), jnp.float32))
    q_own.at[own][...] = (found * sizes.scale).astype(q.dtype)
    plgpu.commit_smem()
    plgpu.copy_smem_to_gmem(q_own.at[own], dq.at[batch, tokens, head])
    plgpu.wait_smem_to_gmem(0)


def backward_keys(
    q: Float[Array, "B L N K"],
    k: Float[Array, "B S N K"],
    v: Float[Array, "B S N K"],
    bias: Float[Array, "B S"],
    lengths: Int[Array, "B"],
    dout: Float[Array, "B L N K"],
    lse: Float[Array, "B N L"],
    delta: Float[Array, "B N L"],
    *,
    sizes: Sizes,
) -> tuple[Float[Array, "B S N K"], Float[Array, "B S N K"]]:
    """Returns the gradients of k and v; here the tile's rows are keys, a step's columns queries."""
    batch, length, heads, width = k.shape
    consumers, columns, stages = sizes.consumers, sizes.columns, sizes.stages
    scratch = [
        *(whole(consumers, ROWS, width, dtype=q.dtype) for _ in range(2)),
        plgpu.SMEM((consumers, ROWS), jnp.float32),
        *(whole(stages, columns, width, dtype=q.dtype) for _ in range(2)),
        *(plgpu.SMEM((stages, columns), jnp.float32) for _ in range(2)),
        plgpu.Barrier(num_barriers=consumers, num_arrivals=3),
        plgpu.Barrier(num_barriers=stages, num_arrivals=4),
        plgpu.Barrier(num_barriers=stages, num_arrivals=consumers),
        spare(sizes, count=2, dtype=q.dtype),
    ]
    run = kernel(
        functools.partial(_keys_body, sizes=sizes),
        name="backward_keys",
        sizes=sizes,
        grid=(batch, heads, length // sizes.rows),
        out=[jax.ShapeDtypeStruct(k.shape, k.dtype)] * 2,
        scratch=scratch,
    )
    return tuple(run(q, k, v, bias, lengths, dout, lse, delta))


def _keys_body(q, k, v, bias, lengths, dout, lse, delta, dk, dv, *scratch, sizes: Sizes) -> None:
    tile, group = lax.axis_index("tile"), lax.axis_index("warpgroup")
    batch, head = lax.axis_index("batch"), lax.axis_index("head")
    tiles = q.shape[1] // sizes.columns
    start, full = query_steps(sizes, tile, tiles)
    # Keys behind the end have no gradient: nothing to read for a tile of them.
    start = lax.select(tile * jnp.int32(sizes.rows) < lengths[batch], start, jnp.int32(tiles))

    @pl.when(group == sizes.consumers)
    def _():
        share_registers(sizes, copier=True)
        _, _, _, q_ring, do_ring, lse_ring, delta_ring, _, filled, emptied, _ = scratch

        @pl.loop(start, jnp.int32(tiles))
        def _(step):
            slot = rest(step - start, sizes.stages)
            tokens = pl.ds(step * jnp.int32(sizes.columns), sizes.columns)
            used = step - start >= sizes.stages
            pl.when(used)(lambda: plgpu.barrier_wait(emptied.at[slot]))
            for source, ring in (
                (q.at[batch, tokens, head], q_ring),
                (dout.at[batch, tokens, head], do_ring),
                (lse.at[batch, head, tokens], lse_ring),
                (delta.at[batch, head, tokens], delta_ring),
            ):
                plgpu.copy_gmem_to_smem(source, ring.at[slot], filled.at[slot])

        drain(jnp.int32(tiles) - start, sizes, emptied)

    @pl.when(group < sizes.consumers)
    def _():
        share_registers(sizes, copier=False)
        rows = tile * jnp.int32(sizes.rows) + group * jnp.int32(ROWS)
        steps = (start, full, tiles)
        _keys(k, v, bias, dk, dv, scratch, rows, lengths[batch], steps, sizes=sizes)


def _keys(k, v, bias, dk, dv, scratch, rows, length, steps, *, sizes: Sizes) -> None:
    k_own, v_own, bias_own, q_ring, do_ring, lse_ring, delta_ring, *more = scratch
    ready, filled, emptied, operands = more
    batch, head, own = (lax.axis_index(x) for x in ("batch", "head", "warpgroup"))
    tokens, shape, width = pl.ds(rows, ROWS), (ROWS, sizes.columns), k.shape[-1]
    factor, (start, full, tiles) = sizes.scale * LOG2E, steps
    for source, place in (
        (k.at[batch, tokens, head], k_own),
        (v.at[batch, tokens, head], v_own),
        (bias.at[batch, tokens], bias_own),
    ):
        plgpu.copy_gmem_to_smem(source, place.at[own], ready.at[own])
    plgpu.barrier_wait(ready.at[own])

    def one(step, masked: bool, of_k, of_v) -> None:
        slot = rest(step - start, sizes.stages)
        plgpu.barrier_wait(filled.at[slot])

        def shares_and_change(found, given):
            plgpu.wgmma(found, k_own.at[own], q_ring.at[slot].T)
            plgpu.wgmma(given, v_own.at[own], do_ring.at[slot].T)
            logits = plgpu.wgmma_accumulator_load(found, wait_n=1)
            if sizes.weighted:
                logits = logits + along(read(bias_own.at[own], of_rows=True), shape, 0)
            if masked:
                column = step * jnp.int32(sizes.columns)
                logits = hide_later_blocks(logits, sizes, row=rows, column=column, rows="keys")
            log_sum = along(read(lse_ring.at[slot], of_rows=False), shape, 1)
            share = jnp.exp2(logits * factor - log_sum)
            less = along(read(delta_ring.at[slot], of_rows=False), shape, 1)
            return share.astype(k.dtype), (share * (given[...] - less)).astype(k.dtype)

        parts = [plgpu.ACC(shape, jnp.float32)] * 2
        share, change = pl.run_scoped(shares_and_change, *parts)
        places = [None if operands is None else operands.at[own, i] for i in range(2)]
        multiply(of_v, share, do_ring.at[slot], places[0])
        multiply(of_k, change, q_ring.at[slot], places[1])
        plgpu.wgmma_wait(0)
        give_back(emptied.at[slot], was_read=True)

    def run(of_k, of_v):
        first_whole = lax.max(full, start)
        if sizes.causal is not None:
            pl.loop(start, first_whole)(lambda step: one(step, True, of_k, of_v))
        pl.loop(first_whole, jnp.int32(tiles))(lambda step: one(step, False, of_k, of_v))
        return of_k[...], of_v[...]

    found = pl.run_scoped(run, *[plgpu.ACC((ROWS, width), jnp.float32)] * 2)
    places = (ROWS, width)
    key = plgpu.broadcasted_iota(jnp.int32, places, 0, layout=plgpu.Layout.WGMMA) + rows
    for total, factor, place, out in zip(
        found, (sizes.scale, 1.0), (k_own, v_own), (dk, dv), strict=True
    ):
        seen = jnp.where(key < length, total * factor, jnp.float32(0))
        place.at[own][...] = seen.astype(k.dtype)
        plgpu.commit_smem()
        plgpu.copy_smem_to_gmem(place.at[own], out.at[batch, tokens, head])
    plgpu.wait_smem_to_gmem(0)
