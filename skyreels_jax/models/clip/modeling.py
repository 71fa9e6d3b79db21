"""CLIP vision transformer (Radford et al. 2021): one image to hidden states or one vector."""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from skyreels_jax.core.errors import UserError
from skyreels_jax.kernels.attention import attention
from skyreels_jax.models.clip.config import CLIPVisionConfig
from skyreels_jax.nn.linear import MLP, Init, Linear, gelu_exact, matmul, normal
from skyreels_jax.nn.norm import LayerNorm
from skyreels_jax.nn.stack import scan, stack

Pixels = Float[Array, "B height width channels"]  # as `preprocess` makes them
States = Float[Array, "B S D"]


def quick_gelu(x: Array) -> Array:
    """x * sigmoid(1.702 x), the approximation that OpenAI's CLIP models were trained with."""
    return x * jax.nn.sigmoid(1.702 * x)


ACTIVATIONS = {"gelu": gelu_exact, "quick_gelu": quick_gelu}


class PatchEmbedding(nnx.Module):
    """Square patches to states by one product each; kernel [p, p, channels, D], no bias."""

    def __init__(self, config: CLIPVisionConfig, *, rngs: nnx.Rngs):
        side = config.patch_size
        shape = (side, side, config.num_channels, config.hidden_size)
        init = normal(config.initializer_range * config.initializer_factor)
        self.kernel = nnx.Param(init(rngs.params(), shape))

    def __call__(self, pixels: Pixels) -> States:
        kernel = self.kernel[...]
        side, _, channels, width = kernel.shape
        batch, height, across, _ = pixels.shape
        x = pixels.astype(kernel.dtype)
        x = x.reshape(batch, height // side, side, across // side, side, channels)
        rows = x.transpose(0, 1, 3, 2, 4, 5).reshape(-1, side * side * channels)
        return (rows @ kernel.reshape(-1, width)).reshape(batch, -1, width)


class QKV(nnx.Module):
    """Three projections kept apart on the first axis: kernel [3, in, out], bias [3, out]."""

    def __init__(self, width: int, *, kernel_init: Init, rngs: nnx.Rngs):
        self.kernel = nnx.Param(kernel_init(rngs.params(), (3, width, width)))
        self.bias = nnx.Param(jnp.zeros((3, width)))

    def __call__(self, x: States) -> tuple[States, States, States]:
        kernel, bias = self.kernel[...], self.bias[...]
        q, k, v = (matmul(x, kernel[i]) + bias[i][None, None] for i in range(3))
        return q, k, v


class SelfAttention(nnx.Module):
    """Attention among all states of an image."""

    def __init__(self, config: CLIPVisionConfig, *, rngs: nnx.Rngs):
        width, factor = config.hidden_size, config.initializer_factor
        into = normal(factor * (width * 2 * config.num_hidden_layers) ** -0.5)
        self.qkv = QKV(width, kernel_init=into, rngs=rngs)
        self.o = Linear(width, width, kernel_init=normal(factor * width**-0.5), rngs=rngs)
        self.heads = config.num_attention_heads

    def __call__(self, x: States) -> States:
        q, k, v = (y.reshape(*y.shape[:2], self.heads, -1) for y in self.qkv(x))
        return self.o(attention(q, k, v).reshape(x.shape))


class Block(nnx.Module):
    """Pre-norm residual attention and feed-forward.

    Called with (states, any states), it returns (next states, states): so a loop over all blocks
    ends with the states after the last block and those before it.
    """

    def __init__(self, config: CLIPVisionConfig, *, rngs: nnx.Rngs):
        width, factor = config.hidden_size, config.initializer_factor
        self.norm1 = LayerNorm(width, eps=config.layer_norm_eps)
        self.attn = SelfAttention(config, rngs=rngs)
        self.norm2 = LayerNorm(width, eps=config.layer_norm_eps)
        self.mlp = MLP(
            width,
            config.intermediate_size,
            width,
            activation=ACTIVATIONS[config.hidden_act],
            kernel_init=normal(factor * (2 * width) ** -0.5),
            down_init=normal(factor * (width * 2 * config.num_hidden_layers) ** -0.5),
            rngs=rngs,
        )

    def __call__(self, carry: tuple[States, States]) -> tuple[States, States]:
        x, _ = carry
        y = x + self.attn(self.norm1(x))
        return y + self.mlp(self.norm2(y)), x


class CLIPVisionEncoder(nnx.Module):
    """Preprocessed images to states, in the dtype of the parameters.

    Initialised as transformers initialises `CLIPVisionModel`; depth is the first axis of `blocks`.
    """

    def __init__(self, config: CLIPVisionConfig, *, rngs: nnx.Rngs):
        width, factor = config.hidden_size, config.initializer_factor
        position = normal(config.initializer_range * factor)
        self.config = config
        self.patch_embedding = PatchEmbedding(config, rngs=rngs)
        self.class_embedding = nnx.Param(normal(factor * width**-0.5)(rngs.params(), (width,)))
        self.position_embedding = nnx.Param(position(rngs.params(), (config.tokens, width)))
        self.pre_norm = LayerNorm(width, eps=config.layer_norm_eps)
        self.blocks = stack(
            lambda rngs: Block(config, rngs=rngs), config.num_hidden_layers, rngs=rngs
        )
        self.post_norm = LayerNorm(width, eps=config.layer_norm_eps)
        out, init = config.projection_dim, normal(factor * width**-0.5)
        self.projection = (
            Linear(width, out, bias=False, kernel_init=init, rngs=rngs) if config.projects else None
        )

    def __call__(self, pixels: Pixels) -> States:
        """Returns the states before the last block, class token first: what I2V models read.

        Raises `UserError` for images of another size or number of channels.
        """
        return self._states(pixels)[1]

    def pooled(self, pixels: Pixels) -> Float[Array, "B P"]:
        """Returns one vector per image: the class token after all blocks, normed and, where the
        configuration has a projection, projected (transformers' `image_embeds`).

        Raises `UserError` as the call does.
        """
        x = self.post_norm(self._states(pixels)[0][:, 0])
        return x if self.projection is None else self.projection(x)

    def _states(self, pixels: Pixels) -> tuple[States, States]:
        config = self.config
        expected = (config.image_size, config.image_size, config.num_channels)
        if pixels.shape[1:] != expected:
            raise UserError(f"images must be [B, {expected}], got {pixels.shape}")
        patches = self.patch_embedding(pixels)
        first = jnp.broadcast_to(
            self.class_embedding[...][None, None], (patches.shape[0], 1, patches.shape[2])
        )
        x = jnp.concatenate([first, patches], axis=1) + self.position_embedding[...][None]
        x = self.pre_norm(x)
        return scan(self.blocks, (x, x))
