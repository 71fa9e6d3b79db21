"""Attention as it is defined, in float32: the truth that the others are tested against."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from skyreels_jax.kernels.attention.mask import MASKED, Mask, key_bias, visible
from skyreels_jax.kernels.attention.residuals import kept


def reference(
    q: Float[Array, "B L N K"],
    k: Float[Array, "B S N K"],
    v: Float[Array, "B S N K"],
    *,
    mask: Mask | None = None,
    scale: float,
) -> tuple[Float[Array, "B L N K"], Float[Array, "B L N"]]:
    """Returns softmax(scale q k^T + log weight) v, in the dtype of q, and the logarithm of the
    softmax's sum; rows that see no key are zero.

    Memory grows with L x S. Computed in float32.
    """
    heads_first = [jnp.swapaxes(x, 1, 2).astype(jnp.float32) for x in (q, k, v)]
    query, key, value = heads_first
    logits = jnp.einsum("bnlk,bnsk->bnls", query * scale, key)
    bias = key_bias(mask, length=k.shape[1])
    if bias is not None:
        logits = logits + bias[:, None, None, :]
    seen = visible(mask, jnp.arange(q.shape[1]), jnp.arange(k.shape[1]))
    if seen is not None:
        logits = jnp.where(seen[None, None], logits, MASKED)
    out = jnp.einsum("bnls,bnsk->bnlk", jax.nn.softmax(logits, axis=-1), value)
    if bias is not None:
        empty = jnp.max(logits, axis=-1, keepdims=True) <= MASKED / 2
        out = jnp.where(empty, 0.0, out)
    lse = jax.nn.logsumexp(logits, axis=-1)
    return kept(jnp.swapaxes(out, 1, 2).astype(q.dtype)), jnp.swapaxes(lse, 1, 2)
