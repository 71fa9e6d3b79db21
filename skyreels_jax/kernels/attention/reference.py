"""Attention as it is defined, in float32: the truth that the others are tested against."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from skyreels_jax.kernels.attention.inputs import precision
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
    softmax's sum; for queries without keys 0 and `MASKED`.

    Memory grows with L x S. Computed in float32, whatever the dtypes are.
    """
    query, key, value = (jnp.swapaxes(x, 1, 2).astype(jnp.float32) for x in (q, k, v))
    exact = precision(query.dtype)
    logits = jnp.einsum("bnlk,bnsk->bnls", query * scale, key, precision=exact)
    bias = key_bias(mask, length=k.shape[1])
    if bias is not None:
        logits = logits + bias[:, None, None, :]
    seen = visible(mask, jnp.arange(q.shape[1]), jnp.arange(k.shape[1]))
    if seen is not None:
        logits = jnp.where(seen[None, None], logits, MASKED)
    if bias is None and k.shape[1]:  # causal blocks alone leave every query its keys
        out, lse = _softmax(logits, value)
    else:
        empty = jnp.max(logits, axis=-1, keepdims=True, initial=MASKED) <= MASKED / 2
        # Before the softmax and behind it: no gradient passes on either side.
        out, lse = _softmax(jnp.where(empty, 0.0, logits), value)
        out, lse = jnp.where(empty, 0.0, out), jnp.where(empty[..., 0], MASKED, lse)
    return kept(jnp.swapaxes(out, 1, 2).astype(q.dtype)), jnp.swapaxes(lse, 1, 2)


def _softmax(
    logits: Float[Array, "B N L S"], value: Float[Array, "B N S K"]
) -> tuple[Float[Array, "B N L K"], Float[Array, "B N L"]]:
    share = jax.nn.softmax(logits, axis=-1)
    out = jnp.einsum("bnls,bnsk->bnlk", share, value, precision=precision(value.dtype))
    return out, jax.nn.logsumexp(logits, axis=-1)
