"""The transformer block: self-attention, text (and image) cross-attention, feed-forward."""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from skyreels_jax.kernels.attention import Mask
from skyreels_jax.models.dit.config import DiTConfig
from skyreels_jax.nn.linear import MLP, Linear, gelu_tanh, normal, zeros
from skyreels_jax.nn.norm import LayerNorm, RMSNorm, layer_norm
from skyreels_jax.nn.rope import apply_rope
from skyreels_jax.parallel.activations import constrain, folded

Attention = Callable[..., Array]  # the signature of kernels.attention.attention
# Frames keep an axis of their own, so that what is said per frame needs no copy per token, and the
# tokens of every frame can be divided among devices alike.
Tokens = Float[Array, "B T S D"]


class KV(NamedTuple):
    """Keys and values of some tokens, per head."""

    key: Float[Array, "*rows S N K"]
    value: Float[Array, "*rows S N K"]


def modulated_norm(
    x: Tokens, shift: Float[Array, "B t D"], scale: Float[Array, "B t D"], *, eps: float
) -> Tokens:
    """Returns layer_norm(x) * (1 + scale) + shift, with one shift and scale per clip or frame.

    Computed in float32, returned in the dtype of x; nothing is expanded to tokens.
    """
    frames = folded(x, *shift.shape[:2])
    y = layer_norm(frames, eps=eps) * (1 + scale[:, :, None]) + shift[:, :, None]
    return y.astype(x.dtype).reshape(x.shape)


def gated_add(x: Tokens, y: Tokens, gate: Float[Array, "B t D"]) -> Tokens:
    """Returns x + y * gate with one gate per clip or frame; float32 inside, x's dtype out."""
    frames = [folded(part, *gate.shape[:2]) for part in (x, y)]
    total = frames[0].astype(jnp.float32) + frames[1] * gate[:, :, None]
    return total.astype(x.dtype).reshape(x.shape)


class Projections(nnx.Module):
    """What both kinds of attention have: q, k, v, o, and norms of q and k over the full width."""

    def __init__(self, config: DiTConfig, *, rngs: nnx.Rngs):
        width = config.width
        self.q = Linear(width, width, rngs=rngs)
        self.k = Linear(width, width, rngs=rngs)
        self.v = Linear(width, width, rngs=rngs)
        self.o = Linear(width, width, rngs=rngs)
        self.norm_q = RMSNorm(width, eps=config.eps)
        self.norm_k = RMSNorm(width, eps=config.eps)
        self.heads = config.num_attention_heads

    def split(self, y: Float[Array, "*rows D"]) -> Float[Array, "*rows N K"]:
        """Returns `y` by heads."""
        return y.reshape(*y.shape[:-1], self.heads, -1)


class SelfAttention(Projections):
    """Attention among video tokens; q and k are normed over the full width, then turned."""

    def __call__(
        self,
        x: Tokens,
        *,
        rope: tuple[Float[Array, "T S R"], Float[Array, "T S R"]],
        mask: Mask | None,
        attention: Attention,
    ) -> Tokens:
        tokens, rope = folded(x, len(x)), tuple(folded(table) for table in rope)
        q = apply_rope(self.split(self.norm_q(self.q(tokens))), *rope)
        k = apply_rope(self.split(self.norm_k(self.k(tokens))), *rope)
        parts = (q, k, self.split(self.v(tokens)))
        parts = (part.reshape(*x.shape[:-1], *part.shape[-2:]) for part in parts)
        return self.o(attention(*parts, mask=mask).reshape(x.shape))


class CrossAttention(Projections):
    """Attention from video tokens to text, plus a second one to image tokens when configured."""

    def __init__(self, config: DiTConfig, *, rngs: nnx.Rngs):
        super().__init__(config, rngs=rngs)
        width = config.width
        if config.added_kv_proj_dim is not None:
            self.k_img = Linear(width, width, rngs=rngs)
            # Zero values: a text model that gains image attention starts unchanged.
            self.v_img = Linear(width, width, kernel_init=zeros, rngs=rngs)
            self.norm_k_img = RMSNorm(width, eps=config.eps)

    def __call__(
        self,
        x: Tokens,
        *,
        context: Float[Array, "B Sc D"] | KV,
        mask: Mask | None,
        image: Float[Array, "B Si D"] | KV | None,
        attention: Attention,
    ) -> Tokens:
        """`context`, `image`: the states, or what `text_kv` and `image_kv` made of them."""
        q = self.split(self.norm_q(self.q(x)))
        text = context if isinstance(context, KV) else self.text_kv(context)
        out = attention(q, text.key, text.value, mask=mask)
        if image is not None:
            picture = image if isinstance(image, KV) else self.image_kv(image)
            out = out + attention(q, picture.key, picture.value)
        return self.o(out.reshape(x.shape))

    def text_kv(self, context: Float[Array, "B Sc D"]) -> KV:
        """Returns the keys and values of the text, which are the same for all times and frames."""
        return KV(self.split(self.norm_k(self.k(context))), self.split(self.v(context)))

    def image_kv(self, image: Float[Array, "B Si D"]) -> KV:
        """Returns the keys and values of the image, in models that have them."""
        return KV(self.split(self.norm_k_img(self.k_img(image))), self.split(self.v_img(image)))


class Block(nnx.Module):
    """x + gate * SelfAttention(norm(x)); + CrossAttention(norm2(x)); + gate * ffn(norm(x)).

    The six shifts, scales and gates are the shared time modulation plus this block's learned one.
    """

    def __init__(self, config: DiTConfig, *, rngs: nnx.Rngs):
        width = config.width
        self.attn1 = SelfAttention(config, rngs=rngs)
        self.attn2 = CrossAttention(config, rngs=rngs)
        self.norm2 = LayerNorm(width, eps=config.eps) if config.cross_attn_norm else None
        self.ffn = MLP(width, config.ffn_dim, width, activation=gelu_tanh, rngs=rngs)
        self.modulation = nnx.Param(normal(width**-0.5)(rngs.params(), (1, 6, width)))
        self.eps = config.eps

    def __call__(
        self,
        x: Tokens,
        modulation: Float[Array, "B t 6 D"],
        *,
        context: Float[Array, "B Sc D"] | KV,
        rope: tuple[Float[Array, "T S R"], Float[Array, "T S R"]],
        mask: Mask | None,
        context_mask: Mask | None,
        image: Float[Array, "B Si D"] | KV | None,
        attention: Attention,
        self_attention: Attention | None = None,
    ) -> Tokens:
        """Returns the next x; `modulation` is float32, one row per clip (t = 1) or frame.

        self_attention: `attention` among video tokens, where that is another one (see `kv_cache`).
        """
        total = modulation + self.modulation[...].astype(jnp.float32)[None]
        shift1, scale1, gate1, shift2, scale2, gate2 = (total[:, :, i] for i in range(6))
        y = modulated_norm(x, shift1, scale1, eps=self.eps)
        y = self.attn1(y, rope=rope, mask=mask, attention=self_attention or attention)
        x = gated_add(x, y, gate1)
        y = x if self.norm2 is None else self.norm2(x)
        x = x + self.attn2(y, context=context, mask=context_mask, image=image, attention=attention)
        y = modulated_norm(x, shift2, scale2, eps=self.eps)
        return constrain(gated_add(x, self.ffn(y), gate2), "batch", None, "tokens", None)
