"""UMT5 encoder (Chung et al. 2023, "UniMax"): T5 with a relative position bias in every layer."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from skyreels_jax.models.umt5.config import UMT5Config
from skyreels_jax.nn.linear import Linear, gelu_tanh, normal
from skyreels_jax.nn.norm import RMSNorm
from skyreels_jax.nn.stack import Remat, scan, stack


def buckets(distance: np.ndarray, *, count: int, max_distance: int) -> np.ndarray:
    """Returns the bucket in [0, count) of each signed distance (key position minus query position).

    Half of the buckets for either sign; of each half, one half for exact small distances and one
    for logarithmic ranges up to `max_distance` (T5, Raffel et al. 2020, section 2.1). The logarithm
    is taken in float32 on purpose: distances on a boundary must round as in PyTorch.
    """
    half = count // 2
    exact = half // 2
    far = np.maximum(np.abs(distance), 1).astype(np.float32)
    ratio = np.log(far / np.float32(exact)) / np.float32(math.log(max_distance / exact))
    coarse = exact + (ratio * np.float32(half - exact)).astype(np.int32)
    near = np.where(np.abs(distance) < exact, np.abs(distance), np.minimum(coarse, half - 1))
    return np.where(distance > 0, half, 0) + near


def position_bias(
    table: Float[Array, "R N"], length: int, *, max_distance: int
) -> Float[Array, "N S S"]:
    """Returns bias[n, q, k] = table[bucket(k - q), n] in float32.

    The S x S matrix is made of 2S values by a reshape, not by a gather of S^2 rows, whose gradient
    (a scatter) is slow on CPU.
    """
    span = 2 * length
    distance = np.concatenate([np.arange(length), np.arange(-length, 0)])  # distance mod 2S
    values = table.astype(jnp.float32)[
        buckets(distance, count=table.shape[0], max_distance=max_distance)
    ].T
    heads = values.shape[0]
    # Rows of 2S values laid out flat and cut into rows of 2S - 1: row q starts at value -q mod 2S.
    flat = jnp.broadcast_to(values[:, None], (heads, length, span)).reshape(heads, -1)
    return flat[:, : length * (span - 1)].reshape(heads, length, span - 1)[:, :, :length]


class Attention(nnx.Module):
    """Self-attention with a learned relative position bias; scores are not scaled by 1/sqrt(K)."""

    def __init__(self, config: UMT5Config, *, rngs: nnx.Rngs):
        width, inner = config.d_model, config.num_heads * config.d_kv
        scale = config.initializer_factor

        def linear(fan_in: int, fan_out: int, deviation: float) -> Linear:
            init = normal(scale * deviation)
            return Linear(fan_in, fan_out, bias=False, kernel_init=init, rngs=rngs)

        self.q = linear(width, inner, (width * config.d_kv) ** -0.5)
        self.k = linear(width, inner, width**-0.5)
        self.v = linear(width, inner, width**-0.5)
        self.o = linear(inner, width, inner**-0.5)
        shape = (config.relative_attention_num_buckets, config.num_heads)
        self.relative_bias = nnx.Param(normal(scale * width**-0.5)(rngs.params(), shape))
        self.heads = config.num_heads
        self.max_distance = config.relative_attention_max_distance

    def __call__(self, x: Float[Array, "B S D"], mask: Bool[Array, "B S"]) -> Float[Array, "B S D"]:
        q, k, v = (
            y.reshape(*y.shape[:2], self.heads, -1) for y in (self.q(x), self.k(x), self.v(x))
        )
        logits = jnp.einsum("bqnk,bsnk->bnqs", q, k, preferred_element_type=jnp.float32)
        bias = position_bias(self.relative_bias[...], x.shape[1], max_distance=self.max_distance)
        logits = jnp.where(mask[:, None, None], logits + bias[None], jnp.finfo(jnp.float32).min)
        weights = jax.nn.softmax(logits, axis=-1).astype(v.dtype)
        y = jnp.einsum("bnqs,bsnk->bqnk", weights, v)
        return self.o(y.reshape(*y.shape[:2], -1))


class GatedMLP(nnx.Module):
    """`down(gelu(gate(x)) * up(x))`, without biases."""

    def __init__(self, config: UMT5Config, *, rngs: nnx.Rngs):
        width, inner, scale = config.d_model, config.d_ff, config.initializer_factor
        into, out = normal(scale * width**-0.5), normal(scale * inner**-0.5)
        self.gate = Linear(width, inner, bias=False, kernel_init=into, rngs=rngs)
        self.up = Linear(width, inner, bias=False, kernel_init=into, rngs=rngs)
        self.down = Linear(inner, width, bias=False, kernel_init=out, rngs=rngs)

    def __call__(self, x: Float[Array, "B S D"]) -> Float[Array, "B S D"]:
        return self.down(gelu_tanh(self.gate(x)) * self.up(x))


class Block(nnx.Module):
    """Pre-norm residual attention and feed-forward."""

    def __init__(self, config: UMT5Config, *, rngs: nnx.Rngs):
        self.norm1 = RMSNorm(config.d_model, eps=config.layer_norm_epsilon)
        self.attn = Attention(config, rngs=rngs)
        self.norm2 = RMSNorm(config.d_model, eps=config.layer_norm_epsilon)
        self.ffn = GatedMLP(config, rngs=rngs)

    def __call__(self, x: Float[Array, "B S D"], mask: Bool[Array, "B S"]) -> Float[Array, "B S D"]:
        x = x + self.attn(self.norm1(x), mask)
        return x + self.ffn(self.norm2(x))


class UMT5Encoder(nnx.Module):
    """Token ids to hidden states [B, S, d_model], in the dtype of the parameters.

    `mask` is True for tokens that may be attended to; hidden states at other positions are defined
    but carry no meaning. Initialised as transformers initialises `UMT5EncoderModel`.
    """

    def __init__(self, config: UMT5Config, *, remat: Remat = "none", rngs: nnx.Rngs):
        self.remat = remat
        shape = (config.vocab_size, config.d_model)
        self.embedding = nnx.Param(normal(config.initializer_factor)(rngs.params(), shape))
        self.blocks = stack(lambda rngs: Block(config, rngs=rngs), config.num_layers, rngs=rngs)
        self.norm = RMSNorm(config.d_model, eps=config.layer_norm_epsilon)

    def __call__(
        self, input_ids: Int[Array, "B S"], mask: Bool[Array, "B S"]
    ) -> Float[Array, "B S D"]:
        x = self.embedding[...][input_ids]
        return self.norm(scan(self.blocks, x, mask, remat=self.remat))
