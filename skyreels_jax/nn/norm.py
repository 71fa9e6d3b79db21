"""Norms over the last axis, always computed in float32."""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from skyreels_jax.parallel.activations import folded


def layer_norm(x: Float[Array, "*rows D"], *, eps: float) -> Float[Array, "*rows D"]:
    """Returns (x - mean) / sqrt(variance + eps) in float32, for callers that modulate."""
    x = x.astype(jnp.float32)
    centred = x - jnp.mean(x, axis=-1, keepdims=True)
    return centred * jax.lax.rsqrt(jnp.mean(jnp.square(centred), axis=-1, keepdims=True) + eps)


def rms_norm(x: Float[Array, "*rows D"], *, eps: float) -> Float[Array, "*rows D"]:
    """Returns x / sqrt(mean(x^2) + eps) in float32."""
    x = x.astype(jnp.float32)
    return x * jax.lax.rsqrt(jnp.mean(jnp.square(x), axis=-1, keepdims=True) + eps)


def _row(vector: Array, ndim: int) -> Array:
    return vector.astype(jnp.float32).reshape((1,) * (ndim - 1) + vector.shape)


class RMSNorm(nnx.Module):
    """`x / sqrt(mean(x^2) + eps) * scale`, returned in the dtype of x."""

    def __init__(self, features: int, *, eps: float = 1e-6):
        self.scale = nnx.Param(jnp.ones(features))
        self.eps = eps

    def __call__(self, x: Float[Array, "*rows D"]) -> Float[Array, "*rows D"]:
        rows = folded(x)
        y = rms_norm(rows, eps=self.eps) * _row(self.scale[...], rows.ndim)
        return y.astype(x.dtype).reshape(x.shape)


class LayerNorm(nnx.Module):
    """`(x - mean) / sqrt(variance + eps) * scale + bias`, returned in the dtype of x."""

    def __init__(self, features: int, *, eps: float = 1e-6):
        self.scale = nnx.Param(jnp.ones(features))
        self.bias = nnx.Param(jnp.zeros(features))
        self.eps = eps

    def __call__(self, x: Float[Array, "*rows D"]) -> Float[Array, "*rows D"]:
        rows = folded(x)
        y = layer_norm(rows, eps=self.eps) * _row(self.scale[...], rows.ndim)
        return (y + _row(self.bias[...], rows.ndim)).astype(x.dtype).reshape(x.shape)
