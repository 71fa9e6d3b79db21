"""What the kernels of `gpu.forward` and `gpu.backward` share: tiles, ranges, small steps.

A program of the grid has `consumers` warpgroups that compute, each on 64 rows, and a last one that
only copies: it fills a ring of `stages` buffers by TMA and waits until all have consumed one.
"""

import dataclasses
import inspect
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

LOG2E = math.log2(math.e)
ROWS = 64  # of a warpgroup: those of one wgmma
# Registers of a thread by the number of consumers: 65,536 of a multiprocessor less the copier's. A
# single consumer has as many as a thread can from the start.
REGISTERS = {2: 240, 3: 160}
COPIER_REGISTERS = 24


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sizes:
    """All that a kernel is compiled for.

    rows, columns: tokens of a tile of the grid (a multiple of consumers x 64) and of a step.
    scale: of the logits. hidden: a logit of a hidden key, over `scale`: times scale log2 e it is
    `MASKED`. causal: tokens of a causal block. weighted: whether keys have weights.
    cut: whether a clip's keys may end within a tile. by_memory: see `multiply`.
    """

    consumers: int
    rows: int
    columns: int
    stages: int
    scale: float
    hidden: float
    causal: int | None
    weighted: bool
    cut: bool
    by_memory: bool


def kernel(
    body: Callable,
    *,
    name: str,
    sizes: Sizes,
    grid: tuple[int, int, int],
    out: list,
    scratch: list,
):
    """Returns the program `body` over batch, heads and tiles, in order of tiles first."""
    return plgpu.kernel(
        body,
        out_type=out,
        scratch_types=scratch,
        grid=grid,
        grid_names=("batch", "head", "tile"),
        num_threads=sizes.consumers + 1,
        thread_name="warpgroup",
        kernel_name=f"attention_{name}",
        compiler_params=plgpu.CompilerParams(approx_math=True),
    )


def share_registers(sizes: Sizes, *, copier: bool) -> None:
    """Takes registers from the warpgroup that copies for those that compute."""
    if sizes.consumers in REGISTERS:
        count = COPIER_REGISTERS if copier else REGISTERS[sizes.consumers]
        plgpu.set_max_registers(count, action="decrease" if copier else "increase")


def whole(*shape: int, dtype):
    """Returns shared memory for matrices that wgmma reads, swizzled over its last two axes."""
    lane = 128 // jnp.dtype(dtype).itemsize
    tiled = (plgpu.TilingTransform((8, lane)), plgpu.SwizzleTransform(128))
    return plgpu.SMEM(shape, dtype, transforms=tiled)


def spread(value: float, *shape: int) -> jax.Array:
    """Returns float32 registers of one value, laid out as wgmma's results, or [n] as their rows."""
    layout = plgpu.Layout.WGMMA if len(shape) == 2 else plgpu.Layout.WGMMA.reduce(1)
    return plgpu.layout_cast(jnp.full(shape, value, jnp.float32), layout)


def along(vector: jax.Array, shape: tuple[int, int], axis: int) -> jax.Array:
    """Returns the vector of rows (axis 0) or columns (axis 1) as a matrix."""
    return lax.broadcast_in_dim(vector, shape, [axis])


def read(ref, *, of_rows: bool) -> jax.Array:
    """Returns a vector of shared memory, laid out for the rows or columns of wgmma's results."""
    layout = plgpu.Layout.WGMMA.reduce(1 if of_rows else 0)
    if inspect.signature(plgpu.load).parameters["idx"].default is inspect.Parameter.empty:
        return plgpu.load(ref, (), layout=layout)  # jax 0.10
    return plgpu.load(ref, layout=layout)


def spare(sizes: Sizes, *, count: int, dtype):
    """Returns memory for `count` operands of `multiply` per consumer, where they need it."""
    shape = (sizes.consumers, count, ROWS, sizes.columns)
    return whole(*shape, dtype=dtype) if sizes.by_memory else None


def multiply(acc, a: jax.Array, b, place) -> None:
    """Starts acc += a @ b with `a` from registers, or by way of `place` in shared memory.

    jax's interpreter of these kernels knows products of shared memory only.
    """
    if place is not None:
        place[...] = a
        plgpu.commit_smem()
    plgpu.wgmma(acc, a if place is None else place, b)


def rest(number, ring: int) -> jax.Array:
    """Returns the place in a ring of that size."""
    return lax.rem(number, jnp.int32(ring))


def give_back(emptied, *, was_read: bool) -> None:
    """Lets the copier fill a buffer again. was_read: by loads, whose order before the copy engine's
    next write takes a fence, and not by products alone.
    """
    if was_read:
        plgpu.commit_smem()
    plgpu.barrier_arrive(emptied)


def drain(steps, sizes: Sizes, *emptied) -> None:
    """The copier's last waits, so that nobody is left before a barrier that ends with it."""

    @pl.loop(lax.max(steps - jnp.int32(sizes.stages), 0), steps)
    def _(step):
        for barrier in emptied:
            plgpu.barrier_wait(barrier.at[rest(step, sizes.stages)])


def end_of_block(token, block: int) -> jax.Array:
    """Returns the end of the causal block that the token is in."""
    return (lax.div(token, jnp.int32(block)) + 1) * jnp.int32(block)


def key_steps(sizes: Sizes, tile, length) -> tuple[jax.Array, jax.Array]:
    """Returns how many tiles of keys the queries of a tile see whole, and how many at all (>= 1).

    length: of this clip's keys.
    """
    see_all, see_any = length, length
    if sizes.causal is not None:
        first = tile * jnp.int32(sizes.rows)
        last = first + jnp.int32(sizes.rows - 1)
        see_all = lax.min(length, end_of_block(first, sizes.causal))
        see_any = lax.min(length, end_of_block(last, sizes.causal))
    some = lax.max(lax.div(see_any + jnp.int32(sizes.columns - 1), jnp.int32(sizes.columns)), 1)
    return lax.min(lax.div(see_all, jnp.int32(sizes.columns)), some), some


def query_steps(sizes: Sizes, tile, tiles: int) -> tuple[jax.Array, jax.Array]:
    """Returns the first of `tiles` tiles of queries that sees any key of this tile of keys, and
    the first from which on all are seen.
    """
    if sizes.causal is None:
        return jnp.int32(0), jnp.int32(0)
    block, columns = jnp.int32(sizes.causal), jnp.int32(sizes.columns)
    first = tile * jnp.int32(sizes.rows)
    last = first + jnp.int32(sizes.rows - 1)
    some = lax.div(lax.div(first, block) * block, columns)
    every = lax.div(lax.div(last, block) * block + (columns - 1), columns)
    return lax.min(some, jnp.int32(tiles)), lax.min(every, jnp.int32(tiles))


def hide_later_blocks(x, sizes: Sizes, *, row, column, rows: str) -> jax.Array:
    """Returns logits over `scale` with those of keys in later causal blocks than the query's
    hidden.

    row, column: the tokens of x[0, 0]. rows: "queries" or "keys", the columns being the other.
    """
    block = sizes.causal
    layout = plgpu.Layout.WGMMA
    place = row + plgpu.broadcasted_iota(jnp.int32, x.shape[:1], 0, layout=layout.reduce(1))
    start = along(lax.div(place, jnp.int32(block)) * jnp.int32(block), x.shape, 0)
    other = column + plgpu.broadcasted_iota(jnp.int32, x.shape, 1, layout=layout)
    seen = other < start + jnp.int32(block) if rows == "queries" else other >= start
    return jnp.where(seen, x, jnp.float32(sizes.hidden))
