"""Attention with memory linear in length: online softmax over chunks of queries and keys."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from skyreels_jax.kernels.attention.mask import MASKED, Mask, key_bias, visible


def _chunks(x: Array, size: int) -> Array:
    """[B, N, L, K] -> [L / size, B, N, size, K], zero-padded at the end."""
    batch, heads, length, width = x.shape
    count = -(-length // size)
    x = jnp.pad(x, ((0, 0), (0, 0), (0, count * size - length), (0, 0)))
    return jnp.moveaxis(x.reshape(batch, heads, count, size, width), 2, 0)


def _whole(x: Array, length: int) -> Array:
    """[chunks, B, N, size, K] -> [B, length, N, K]."""
    x = jnp.moveaxis(x, 0, 2).reshape(x.shape[1], x.shape[2], -1, x.shape[4])
    return jnp.swapaxes(x[:, :, :length], 1, 2)


def chunked(
    q: Float[Array, "B L N K"],
    k: Float[Array, "B S N K"],
    v: Float[Array, "B S N K"],
    *,
    mask: Mask | None = None,
    scale: float,
    query_chunk: int = 256,
    key_chunk: int = 2048,
) -> tuple[Float[Array, "B L N K"], Float[Array, "B L N"]]:
    """Equals `reference` without an L x S array, forward or backward (chunks are recomputed).

    Products run in the dtype of q and add up in float32. The running maximum m, sum and output of a
    query are rescaled by exp(m_old - m_new) as chunks of keys arrive (Milakov, Gimelshein 2018).
    """
    length, keys = q.shape[1], k.shape[1]
    query_chunk, key_chunk = min(query_chunk, length), min(key_chunk, keys)
    q_all, k_all, v_all = (
        _chunks(jnp.swapaxes(x, 1, 2), size)
        for x, size in (
            (q * jnp.asarray(scale, q.dtype), query_chunk),
            (k, key_chunk),
            (v, key_chunk),
        )
    )
    pad = k_all.shape[0] * key_chunk - keys
    bias = key_bias(mask, length=keys)
    if bias is None and pad:
        bias = jnp.zeros((1, keys), jnp.float32)
    if bias is not None:
        bias = jnp.pad(bias, ((0, 0), (0, pad)), constant_values=MASKED)
        bias = jnp.moveaxis(bias.reshape(bias.shape[0], -1, key_chunk), 1, 0)

    def one_query_chunk(index: Array, query: Array) -> tuple[Array, Array]:
        def one_key_chunk(carry, chunk):
            total, top, out = carry
            position, key, value, key_bias_chunk = chunk
            logits = jnp.einsum("bnlk,bnsk->bnls", query, key, preferred_element_type=jnp.float32)
            if key_bias_chunk is not None:
                logits = logits + key_bias_chunk[:, None, None, :]
            seen = visible(
                mask,
                index * query_chunk + jnp.arange(query_chunk),
                position * key_chunk + jnp.arange(key_chunk),
            )
            if seen is not None:
                logits = jnp.where(seen[None, None], logits, MASKED)
            # The result does not depend on the maximum, so no gradient flows through it.
            new_top = jax.lax.stop_gradient(
                jnp.maximum(top, jnp.max(logits, axis=-1, keepdims=True))
            )
            old, share = jnp.exp(top - new_top), jnp.exp(logits - new_top)
            total = total * old + jnp.sum(share, axis=-1, keepdims=True)
            new = jnp.einsum(
                "bnls,bnsk->bnlk", share.astype(v.dtype), value, preferred_element_type=jnp.float32
            )
            return (total, new_top, out * old + new), None

        row = (*query.shape[:-1], 1)
        start = (jnp.zeros(row), jnp.full(row, MASKED), jnp.zeros(query.shape))
        chunks = (jnp.arange(k_all.shape[0]), k_all, v_all, bias)
        if k_all.shape[0] == 1:
            (total, top, out), _ = one_key_chunk(start, jax.tree.map(lambda x: x[0], chunks))
        else:
            body = jax.checkpoint(one_key_chunk, prevent_cse=False)
            (total, top, out), _ = jax.lax.scan(body, start, chunks)
        out = jnp.where(top <= MASKED / 2, 0.0, out / total).astype(q.dtype)
        return out, top + jnp.log(total)

    body = jax.checkpoint(one_query_chunk, prevent_cse=False)
    found = jax.lax.map(lambda x: body(*x), (jnp.arange(q_all.shape[0]), q_all))
    out, lse = (_whole(x, length) for x in found)
    return out, lse[..., 0]
