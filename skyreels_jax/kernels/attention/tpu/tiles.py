"""Which tiles the kernels work on, by chip and pass."""

import dataclasses
from collections.abc import Iterator

import jax.numpy as jnp

from skyreels_jax.kernels.attention.devices import tpu_kind

LANES = 128
LONG = 32_768  # tokens


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tiles:
    """Queries and keys that a step of the grid has in VMEM, and those of a part of it that is
    looked at in one piece; ahead: parts whose scores are begun before those of one are used.
    """

    q: int
    kv: int
    part_q: int
    part_kv: int
    ahead: int

    def worthwhile(self, queries: int, keys: int) -> "Tiles":
        """Returns the tiles, of few tokens not the largest: the last tile of keys, where queries
        do not see all of it, is done part by part, and slower.
        """
        q = self.q if queries >= LONG else min(self.q, 1024)
        kv = self.kv if keys >= LONG else min(self.kv, 2048)
        return dataclasses.replace(self, q=q, kv=kv)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Passes:
    """Tiles of the forward pass and of the two kernels of the backward pass."""

    forward: Tiles
    dq: Tiles
    dkv: Tiles

    def __iter__(self) -> Iterator[Tiles]:
        return iter((self.forward, self.dq, self.dkv))

    def fitted(self, queries: int, keys: int) -> tuple["Passes", int, int]:
        """Returns tiles no larger than these numbers of tokens need, and the numbers with the
        padding that makes all tiles full.
        """
        chosen = [each.worthwhile(queries, keys) for each in self]
        queries = _whole(max(each.q for each in chosen), queries)
        keys = _whole(max(each.kv for each in chosen), keys)
        forward, dq, dkv = (_fitted(each, queries, keys) for each in chosen)
        return Passes(forward=forward, dq=dq, dkv=dkv), queries, keys


def _whole(tile: int, length: int) -> int:
    tile = min(tile, -(-length // LANES) * LANES)
    return -(-length // tile) * tile


def _fitted(tiles: Tiles, queries: int, keys: int) -> Tiles:
    q, kv = _divisor(queries, tiles.q), _divisor(keys, tiles.kv)
    part_q, part_kv = _divisor(q, tiles.part_q), _divisor(kv, tiles.part_kv)
    return dataclasses.replace(tiles, q=q, kv=kv, part_q=part_q, part_kv=part_kv)


def _divisor(whole: int, most: int) -> int:
    """Returns the largest divisor of `whole` up to `most` that fills lanes."""
    return next(n for n in range(min(most, whole), 0, -LANES) if whole % n == 0)


# By the schedules of benchmarks/tpu_schedule.py: larger parts where a chip's matrix unit has fewer
# rows (128, v5e and v5p), no more of them in flight than registers hold; and of a tile as many as
# make its beginning and end short, in which the matrix unit waits.
DKV = Tiles(q=1024, kv=2048, part_q=256, part_kv=256, ahead=2)
ROWS_128 = Passes(
    forward=Tiles(q=1024, kv=4096, part_q=512, part_kv=512, ahead=1),
    dq=Tiles(q=1024, kv=2048, part_q=512, part_kv=512, ahead=1),
    dkv=DKV,
)
ROWS_256 = Passes(
    forward=Tiles(q=1024, kv=4096, part_q=512, part_kv=256, ahead=2),
    dq=Tiles(q=1024, kv=2048, part_q=256, part_kv=512, ahead=1),
    dkv=DKV,
)
TPU7X = dataclasses.replace(ROWS_256, dq=Tiles(q=1024, kv=4096, part_q=256, part_kv=512, ahead=1))
# For tpu7x this dq takes minutes to compile.
V6E = dataclasses.replace(ROWS_256, dq=Tiles(q=2048, kv=4096, part_q=256, part_kv=512, ahead=1))
# Products of float32 are six of bfloat16 each: larger bodies take minutes to compile.
SMALL = Tiles(q=512, kv=512, part_q=256, part_kv=256, ahead=1)
FLOAT32 = Passes(forward=SMALL, dq=SMALL, dkv=SMALL)
TABLE = {"v5e": ROWS_128, "v5p": ROWS_128, "v6e": V6E, "tpu7x": TPU7X}
KINDS = {  # of devices, as jax calls them
    "TPU v5 lite": "v5e",
    "TPU v5e": "v5e",
    "TPU v5": "v5p",
    "TPU v5p": "v5p",
    "TPU v6 lite": "v6e",
    "TPU v6e": "v6e",
    "TPU7x": "tpu7x",
}
VMEM = 32 * 2**20  # bytes a kernel may use, at most; what is spilled counts


def passes(dtype: jnp.dtype) -> Passes:
    """Returns the tiles for the TPU of this process; without one (programs that are compiled for
    a topology) `ROWS_256`, which every chip of the table has room for. float32 has its own
    everywhere. A TPU that is not in the table is refused before this.
    """
    if dtype == jnp.float32:
        return FLOAT32
    kind = tpu_kind()
    return ROWS_256 if kind is None else TABLE[KINDS[kind]]
