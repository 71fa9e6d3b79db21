"""Attention as it is defined, in float32: the truth that the others are tested against."""

import functools

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
    logits, biased = _logits(query * scale, key, mask)
    if not biased and k.shape[1]:  # causal blocks alone leave every query its keys
        out, lse = _softmax(logits, value)
    else:
        empty = jnp.max(logits, axis=-1, keepdims=True, initial=MASKED) <= MASKED / 2
        # Before the softmax and behind it: no gradient passes on either side.
        out, lse = _softmax(jnp.where(empty, 0.0, logits), value)
        out, lse = jnp.where(empty, 0.0, out), jnp.where(empty[..., 0], MASKED, lse)
    return kept(jnp.swapaxes(out, 1, 2).astype(q.dtype)), jnp.swapaxes(lse, 1, 2)


def reference_gradients(
    q: Float[Array, "B L N K"],
    k: Float[Array, "B S N K"],
    v: Float[Array, "B S N K"],
    out: Float[Array, "B L N K"],
    lse: Float[Array, "B L N"],
    grad: Float[Array, "B L N K"],
    *,
    mask: Mask | None = None,
    scale: float,
) -> tuple[Float[Array, "B L N K"], Float[Array, "B S N K"], Float[Array, "B S N K"]]:
    """Returns the gradients of q, k and v, as `attention_gradients` does."""
    arrays = (jnp.swapaxes(x, 1, 2).astype(jnp.float32) for x in (q, k, v, out, grad))
    query, key, value, result, grad = arrays
    product = functools.partial(jnp.einsum, precision=precision(query.dtype))
    logits, _ = _logits(query * scale, key, mask)
    total = jnp.swapaxes(lse, 1, 2)[..., None]
    share = jnp.where(total <= MASKED / 2, 0.0, jnp.exp(logits - total))
    common = jnp.sum(grad * result, axis=-1, keepdims=True)
    dlogits = share * (product("bnlk,bnsk->bnls", grad, value) - common) * scale
    dq = product("bnls,bnsk->bnlk", dlogits, key)
    dk = product("bnls,bnlk->bnsk", dlogits, query)
    dv = product("bnls,bnlk->bnsk", share, grad)
    pairs = ((dq, q), (dk, k), (dv, v))
    return tuple(jnp.swapaxes(dx, 1, 2).astype(x.dtype) for dx, x in pairs)


def _logits(
    query: Float[Array, "B N L K"], key: Float[Array, "B N S K"], mask: Mask | None
) -> tuple[Float[Array, "B N L S"], bool]:
    """Returns the logits, and whether keys have weights or lengths."""
    logits = jnp.einsum("bnlk,bnsk->bnls", query, key, precision=precision(query.dtype))
    bias = key_bias(mask, length=key.shape[2])
    if bias is not None:
        logits = logits + bias[:, None, None, :]
    seen = visible(mask, jnp.arange(query.shape[2]), jnp.arange(key.shape[2]))
    if seen is not None:
        logits = jnp.where(seen[None, None], logits, MASKED)
    return logits, bias is not None


def _softmax(
    logits: Float[Array, "B N L S"], value: Float[Array, "B N S K"]
) -> tuple[Float[Array, "B N L K"], Float[Array, "B N L"]]:
    share = jax.nn.softmax(logits, axis=-1)
    out = jnp.einsum("bnls,bnsk->bnlk", share, value, precision=precision(value.dtype))
    return out, jax.nn.logsumexp(logits, axis=-1)
