"""Attention on TPUs by jax's own Pallas kernel (splash attention), forward and backward."""

import concurrent.futures
import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from skyreels_jax.kernels.attention.mask import Mask

TILE, COMPUTE = 1024, 512  # of queries and keys; keys that are looked at together
LANES = 128


def splash(
    q: Float[Array, "B L N K"],
    k: Float[Array, "B S N K"],
    v: Float[Array, "B S N K"],
    *,
    mask: Mask | None = None,
    scale: float,
) -> tuple[Float[Array, "B L N K"], None]:
    """Equals `reference` as far as it goes: no weights or lengths of keys, no logarithm of the
    softmax's sum, heads of 64 or multiples of 128. Compiles for TPUs only.
    """
    if why := splash_refuses(q, mask):
        raise NotImplementedError(f"splash attention {why}")
    lengths, heads = (q.shape[1], k.shape[1]), q.shape[2]
    kernel = _kernel(lengths, heads, None if mask is None else mask.causal_block)
    padded = (_padded(q * jnp.asarray(scale, q.dtype)), _padded(k), _padded(v))
    out = jax.vmap(lambda q, k, v: kernel(q, k, v, _segments(lengths)))(*padded)
    return jnp.swapaxes(out, 1, 2)[:, : lengths[0]], None


def splash_refuses(q: Float[Array, "B L N K"], mask: Mask | None) -> str:
    """Returns what of these splash attention cannot do; empty where it can."""
    if mask is not None and (mask.kv_weight is not None or mask.kv_length is not None):
        return "takes causal blocks, and neither weights nor lengths of keys"
    if q.shape[-1] % LANES and q.shape[-1] != LANES // 2:
        return f"takes heads of 64 or multiples of 128, not {q.shape[-1]}"
    return ""


def _tiles(length: int) -> tuple[int, int]:
    """Returns the tile for `length` tokens, and how many they are when tiles are full."""
    tile = min(TILE, -(-length // LANES) * LANES)
    return tile, -(-length // tile) * tile


def _padded(x: Float[Array, "B L N K"]) -> Float[Array, "B N P K"]:
    """Returns `x` with heads before tokens, and as many tokens as make full tiles."""
    more = _tiles(x.shape[1])[1] - x.shape[1]
    return jnp.swapaxes(jnp.pad(x, ((0, 0), (0, more), (0, 0), (0, 0))), 1, 2)


def _segments(lengths: tuple[int, int]):
    """Returns what keeps padding out of sight; None where there is none."""
    from jax.experimental.pallas.ops.tpu import splash_attention

    whole = [_tiles(length)[1] for length in lengths]
    if tuple(whole) == lengths:
        return None
    told = [
        jnp.asarray(np.arange(full) >= length, jnp.int32)
        for full, length in zip(whole, lengths, strict=True)
    ]
    return splash_attention.SegmentIds(*told)


@functools.lru_cache(maxsize=16)
def _kernel(lengths: tuple[int, int], heads: int, block: int | None):
    """Returns the kernel with its tables in numpy, the same for every layer and pass."""
    # A thread of its own is outside of the trace and the mesh that the caller is in.
    with concurrent.futures.ThreadPoolExecutor(1) as outside:
        made = outside.submit(_make_kernel, lengths, heads, block).result()
    return jax.tree.map(np.asarray, made)


def _make_kernel(lengths: tuple[int, int], heads: int, block: int | None):
    from jax.experimental.pallas.ops.tpu import splash_attention

    (tile_q, whole_q), (tile_k, whole_k) = (_tiles(length) for length in lengths)
    part = min(COMPUTE, tile_k)
    sizes = splash_attention.BlockSizes(
        block_q=tile_q,
        block_kv=tile_k,
        block_kv_compute=part if tile_k % part == 0 else tile_k,
        block_q_dkv=tile_q,
        block_kv_dkv=tile_k,
        block_kv_dkv_compute=part if tile_k % part == 0 else tile_k,
        block_q_dq=tile_q,
        block_kv_dq=tile_k,
    )
    whole = (whole_q, whole_k)
    mask = _causal()(lengths=whole, block=block) if block else splash_attention.FullMask(whole)
    return splash_attention.make_splash_mha(
        splash_attention.MultiHeadMask([mask] * heads),
        block_sizes=sizes,
        head_shards=1,
        q_seq_shards=1,
    )


@functools.cache
def _causal():
    """Returns the class of masks of causal blocks, without importing Pallas for nothing."""
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask

    @dataclasses.dataclass(frozen=True)
    class BlockCausal(splash_attention_mask.Mask):
        lengths: tuple[int, int]
        block: int

        @property
        def shape(self) -> tuple[int, int]:
            return self.lengths

        def __getitem__(self, index):
            queries, keys = (
                np.arange(size)[part] // self.block
                for size, part in zip(self.lengths, index, strict=True)
            )
            return keys[None, :] <= queries[:, None]

    return BlockCausal
