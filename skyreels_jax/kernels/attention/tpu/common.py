"""What the kernels of both passes share: products, masks by position, and the order of work.

Every query sees the keys before its `end`: the number of keys [B], or less, the end of the
query's causal block. A tile of queries and keys is skipped where no query sees a key (its keys
are not loaded either), taken as it is where all see all, and masked else.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array

from skyreels_jax.kernels.attention.inputs import precision
from skyreels_jax.kernels.attention.tpu.tiles import VMEM, Passes, Tiles

Scalar = Any  # int, or a traced int32
LOG2_E, LN_2 = 1.4426950408889634, 0.6931471805599453
NT, NN = ((1,), (1,)), ((1,), (0,))  # contractions: a b^T, a b


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """What is known of a call before it runs.

    queries, keys: tokens without padding; block: of causal attention; biased: whether there are
    weights of keys; masked: whether any tile may need a mask; scale: of the scores.
    interpret: as `pl.pallas_call` takes it.
    """

    queries: int
    keys: int
    block: int | None
    biased: bool
    masked: bool
    scale: float
    passes: Passes
    interpret: Any = False

    def end(self, query: Scalar, length: Scalar) -> Scalar:
        """Returns before which key the keys end that a query sees."""
        if self.block is None:
            return length
        return jnp.minimum(length, (over(query, self.block) + 1) * self.block)

    def last_kv(self, tiles: Tiles, i: Scalar, length: Scalar) -> Scalar:
        """Returns the last tile of keys that queries of tile i see (0 where they see none)."""
        end = self.end((i + 1) * tiles.q - 1, length)
        return jnp.maximum(over(end - 1, tiles.kv), 0)

    def first_q(self, tiles: Tiles, j: Scalar) -> Scalar:
        """Returns the first tile of queries that sees keys of tile j, or the last of all."""
        if self.block is None:
            return 0
        first = over(over(j * tiles.kv, self.block) * self.block, tiles.q)
        return jnp.minimum(first, pl.cdiv(self.queries, tiles.q) - 1)

    def some(self, tiles: Tiles, i: Scalar, j: Scalar, length: Scalar) -> Scalar:
        """Returns whether a query of tile i, if it has any, sees a key of tile j."""
        seen = j * tiles.kv < self.end((i + 1) * tiles.q - 1, length)
        return jnp.logical_and(i * tiles.q < self.queries, seen)

    def every(self, tiles: Tiles, i: Scalar, j: Scalar, length: Scalar) -> Scalar:
        """Returns whether all queries of tile i see all keys of tile j, each once."""
        return jnp.logical_and(not self.biased, (j + 1) * tiles.kv <= self.end(i * tiles.q, length))

    def seen(
        self, query: Scalar, key: Scalar, shape: tuple[int, int], *, axis: int, length: Scalar
    ):
        """Returns which keys (from number `key`) queries (from number `query`) see: bool `shape`,
        whose `axis` is that of queries.
        """
        rows = [1, 1]
        rows[axis] = shape[axis]
        place = query + lax.broadcasted_iota(jnp.int32, tuple(rows), axis)
        keys = key + lax.broadcasted_iota(jnp.int32, shape, 1 - axis)
        if self.block is None:
            return keys < length
        # Exact: numbers of tokens are small for a float32, and the half keeps off the edges.
        number = jnp.floor((place.astype(jnp.float32) + 0.5) * (1.0 / self.block))
        end = jnp.minimum((number.astype(jnp.int32) + 1) * self.block, length)
        return keys < end


def over(a: Scalar, b: int) -> Scalar:
    """Returns a / b, rounded to 0: `//` asks which TPU there is, and here may be none."""
    return lax.div(jnp.int32(a), jnp.int32(b))


def dot(a: Array, b: Array, contract: tuple[tuple[int], tuple[int]]) -> Array:
    """Returns the product in float32; float32 inputs are not rounded."""
    exact = precision(a.dtype)
    return lax.dot_general(
        a, b, (contract, ((), ())), precision=exact, preferred_element_type=jnp.float32
    )


def parts(tiles: Tiles, *, queries_first: bool) -> list[tuple[int, int]]:
    """Returns where the parts of a tile begin, (query, key), in the order of work."""
    of_q, of_kv = range(0, tiles.q, tiles.part_q), range(0, tiles.kv, tiles.part_kv)
    if queries_first:
        return [(a, b) for a in of_q for b in of_kv]
    return [(a, b) for b in of_kv for a in of_q]


def pipelined(
    places: Sequence[tuple[int, int]], begin: Callable, finish: Callable, *, ahead: int
) -> None:
    """Does finish(place, begin(place)) for all; products of the next places are begun before one
    is finished, so that the matrix units have work while others take exponentials.
    """
    begun = []
    for place in places:
        begun.append((place, begin(*place)))
        if len(begun) > ahead:
            finish(*begun.pop(0))
    for each in begun:
        finish(*each)


def one_by_one(
    plan: Plan, tiles: Tiles, at: tuple[Scalar, Scalar, Scalar], body: Callable[..., None]
) -> None:
    """Does body(query, key) at the beginning of every part of tile `at` (of queries, of keys, with
    the number of keys) in which a query sees a key, in a loop that is not unrolled.
    """
    of_kv, (i, j, length) = tiles.kv // tiles.part_kv, at

    def step(n: Scalar, _: None) -> None:
        a = over(n, of_kv) * tiles.part_q
        b = lax.rem(n, jnp.int32(of_kv)) * tiles.part_kv
        last = i * tiles.q + a + tiles.part_q - 1

        @pl.when(j * tiles.kv + b < plan.end(last, length))
        def _():
            body(pl.multiple_of(a, tiles.part_q), pl.multiple_of(b, tiles.part_kv))

    lax.fori_loop(0, tiles.q // tiles.part_q * of_kv, step, None)


def call(kernel: Callable, plan: Plan, name: str, **spec: Any) -> Callable:
    """Returns `pl.pallas_call` of a kernel whose last grid axis adds up in scratch memory."""
    out_shape = spec.pop("out_shape")
    return pl.pallas_call(
        kernel,
        grid_spec=pltpu.PrefetchScalarGridSpec(**spec),
        out_shape=out_shape,
        name=name,
        interpret=plan.interpret,
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("parallel", "parallel", "parallel", "arbitrary"),
            vmem_limit_bytes=VMEM,
        ),
    )


def across(column: Array, width: int) -> Array:
    """[rows, 128] of equal lanes -> [rows, width]."""
    return jnp.tile(column, (1, width // column.shape[1]))


def struct(shape: tuple[int, ...], dtype: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, dtype)


def without(kernel: Callable, place: int) -> Callable:
    """Returns the kernel for calls that lack its argument `place`, which it takes as None."""
    return lambda *refs: kernel(*refs[:place], None, *refs[place:])
