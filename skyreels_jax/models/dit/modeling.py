"""`SkyReelsV2Transformer3D`: velocity of noisy latents, given times, text, image and frame rate."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from skyreels_jax.core.errors import UserError
from skyreels_jax.kernels.attention import Mask
from skyreels_jax.kernels.attention import attention as default_attention
from skyreels_jax.models.dit.blocks import Attention, Block, Tokens, modulated_norm
from skyreels_jax.models.dit.config import DiTConfig
from skyreels_jax.models.dit.text import TextKV, text_kv
from skyreels_jax.nn.linear import (
    MLP,
    Linear,
    gelu_exact,
    gelu_tanh,
    matmul,
    normal,
    xavier_uniform,
    zeros,
)
from skyreels_jax.nn.norm import LayerNorm
from skyreels_jax.nn.rope import rope_table, timestep_embedding
from skyreels_jax.nn.stack import Remat, fold, stack
from skyreels_jax.parallel.activations import constrain

FLOAT32 = jnp.dtype("float32")
Blocks = Callable[[Array], Array]  # tokens before all blocks to those after


def run_plainly(blocks: Blocks, tokens: Tokens) -> Tokens:
    """Returns `blocks(tokens)`: the blocks run whenever the model does."""
    return blocks(tokens)


class PatchEmbedding(nnx.Module):
    """A convolution with stride = kernel: one product per patch. Kernel [pt, ph, pw, in, out]."""

    def __init__(self, config: DiTConfig, *, rngs: nnx.Rngs):
        shape = (*config.patch_size, config.in_channels, config.width)
        kernel = xavier_uniform(rngs.params(), shape)
        if config.image_dim is not None and config.out_channels is not None:
            # Zero beyond the noise: a text model that gains mask and image starts unchanged.
            kernel = kernel.at[..., config.out_channels :, :].set(0.0)
        self.kernel = nnx.Param(kernel)
        self.bias = nnx.Param(jnp.zeros(config.width))

    def __call__(self, x: Float[Array, "B F H W C"]) -> Tokens:
        kernel = self.kernel[...]
        pt, ph, pw, channels, width = kernel.shape
        batch, t, h, w, _ = x.shape
        x = x.astype(kernel.dtype)
        x = x.reshape(batch, t // pt, pt, h // ph, ph, w // pw, pw, channels)
        x = x.transpose(0, 1, 3, 5, 2, 4, 6, 7).reshape(batch, t // pt, -1, kernel[..., 0].size)
        return matmul(x, kernel.reshape(-1, width)) + self.bias[...][None, None, None]


class ImageEmbedding(nnx.Module):
    """CLIP tokens to the width of the model: norm, MLP, norm; learned positions when configured."""

    def __init__(self, config: DiTConfig, *, rngs: nnx.Rngs):
        width = config.image_dim
        self.norm1 = LayerNorm(width, eps=1e-5)
        self.mlp = MLP(width, width, config.width, activation=gelu_exact, rngs=rngs)
        self.norm2 = LayerNorm(config.width, eps=1e-5)
        positions = (1, config.pos_embed_seq_len, width)
        self.pos_embed = None if positions[1] is None else nnx.Param(jnp.zeros(positions))

    def __call__(self, image: Float[Array, "B Si I"]) -> Float[Array, "B Si D"]:
        if self.pos_embed is not None:
            positions = self.pos_embed[...]
            if image.shape[1] != positions.shape[1]:
                raise UserError(
                    f"image_context has {image.shape[1]} tokens a sample; this model needs "
                    f"pos_embed_seq_len = {positions.shape[1]} (first and last frame in one row)"
                )
            image = image.astype(positions.dtype) + positions
        return self.norm2(self.mlp(self.norm1(image)))


class FPSEmbedding(nnx.Module):
    """Frame rate to a 6 x width modulation per sample: row 0 for 16 frames a second, else row 1."""

    def __init__(self, width: int, *, rngs: nnx.Rngs):
        self.embedding = nnx.Param(normal(0.02)(rngs.params(), (2, width)))
        self.projection = MLP(
            width,
            width,
            6 * width,
            activation=jax.nn.silu,
            down_init=zeros,
            dtype=FLOAT32,
            rngs=rngs,
        )

    def __call__(self, fps: Int[Array, "B"]) -> Float[Array, "B 1 6 D"]:
        rows = self.embedding[...].astype(jnp.float32)[jnp.where(fps == 16, 0, 1)]
        return self.projection(rows).reshape(fps.shape[0], 1, 6, -1)


class SkyReelsV2Transformer3D(nnx.Module):
    """The diffusion transformer. Predicts v = noise - data; timestep 0 is clean, 1000 is noise.

    Source: diffusers `SkyReelsV2Transformer3DModel`, SkyReels-V2 (arXiv 2504.13074). One departure:
    with a batch of several samples each gets its own fps modulation and its own times (the
    original repeats them in the wrong order).
    """

    def __init__(
        self,
        config: DiTConfig,
        *,
        attention: Attention = default_attention,
        remat: Remat = "none",
        rngs: nnx.Rngs,
    ):
        width = config.width
        self.attention, self.remat = attention, remat
        small = {"kernel_init": normal(0.02), "rngs": rngs}
        self.config = config
        self.patch_embedding = PatchEmbedding(config, rngs=rngs)
        self.text_embedder = MLP(config.text_dim, width, width, activation=gelu_tanh, **small)
        self.time_embedder = MLP(
            config.freq_dim, width, width, activation=jax.nn.silu, dtype=FLOAT32, **small
        )
        self.time_proj = Linear(width, 6 * width, dtype=FLOAT32, rngs=rngs)
        self.image_embedder = (
            None if config.image_dim is None else ImageEmbedding(config, rngs=rngs)
        )
        self.fps_embedder = (
            FPSEmbedding(config.width, rngs=rngs) if config.inject_sample_info else None
        )
        self.blocks = stack(lambda rngs: Block(config, rngs=rngs), config.num_layers, rngs=rngs)
        self.head_modulation = nnx.Param(normal(width**-0.5)(rngs.params(), (1, 2, width)))
        self.head = Linear(width, config.patch_channels, kernel_init=zeros, rngs=rngs)

    def __call__(
        self,
        latents: Float[Array, "B T H W C"],
        timestep: Float[Array, "B #T"],
        context: Float[Array, "B S E"] | None = None,
        *,
        text: TextKV | None = None,
        context_weight: Float[Array, "B S"] | None = None,
        fps: Int[Array, "B"] | None = None,
        image_context: Float[Array, "B Si I"] | None = None,
        attention: Attention | None = None,
        run_blocks: Callable[[Blocks, Array], Array] = run_plainly,
    ) -> Float[Array, "B T H W O"]:
        """Returns the velocity of `latents`, in the dtype of the parameters.

        timestep: in [0, 1000], one per clip [B, 1] or per frame [B, T].
        context: text states; `context_weight[b, s]` is how many times token s counts (None: once).
        text: what `read` made of these and of `image_context`, in their place.
        fps: frames per second; needed and read only by models with `inject_sample_info`.
        image_context: CLIP states; needed exactly by models with `image_dim`.
        attention: instead of the model's own.
        run_blocks: called with the blocks and their tokens; a step cache may skip the blocks.
        Raises `UserError` on sizes that patches do not divide, on missing and needless conditions.
        """
        if (context is None) == (text is None):
            raise UserError("pass context, or text that `read` made of it: one of both")
        image = image_context is not None if text is None else text.image is not None
        grid = self.check(latents, timestep, fps=fps, image=image)
        config = self.config
        time, modulation = self.embed_time(timestep, fps)
        mask = None
        if config.num_frame_per_block > 1:
            mask = Mask(causal_block=config.num_frame_per_block * grid[1] * grid[2])
        known = {
            "modulation": modulation,
            "rope": rope_table(
                grid, head_dim=config.attention_head_dim, max_seq_len=config.rope_max_seq_len
            ),
            "mask": mask,
            "attention": attention or self.attention,
        }
        shared, each, weight = None, None, context_weight
        if text is None:
            picture = None if self.image_embedder is None else self.image_embedder(image_context)
            shared = self.text_embedder(context), picture
        else:
            each, weight = (text.kv, text.image), text.weight
        known["context_mask"] = None if weight is None else Mask(kv_weight=weight)

        def step(block: Block, x: Array, own: Any) -> tuple[Array, None]:
            words, picture = shared if own is None else own
            return block(x, context=words, image=picture, **known), None

        def blocks(tokens: Array) -> Array:
            return fold(self.blocks, step, tokens, each, remat=self.remat)[0]

        tokens = constrain(self.patch_embedding(latents), "batch", None, "tokens", None)
        x = run_blocks(blocks, tokens)
        return self.project(x, time, grid)

    def read(
        self,
        context: Float[Array, "B S E"],
        *,
        context_weight: Float[Array, "B S"] | None = None,
        image_context: Float[Array, "B Si I"] | None = None,
    ) -> TextKV:
        """Returns what the layers read of these: once for all calls with the same ones."""
        return text_kv(self, context, context_weight, image_context)

    def embed_time(
        self, timestep: Float[Array, "B t"], fps: Int[Array, "B"] | None = None
    ) -> tuple[Float[Array, "B t D"], Float[Array, "B t 6 D"]]:
        """Returns the embedding of times, and what it and the frame rate add to all blocks'
        modulation; float32."""
        time = self.time_embedder(timestep_embedding(timestep, self.config.freq_dim))
        modulation = self.time_proj(jax.nn.silu(time)).reshape(*time.shape[:2], 6, -1)
        if self.fps_embedder is not None:
            modulation = modulation + self.fps_embedder(fps)
        return time, modulation

    def project(
        self, x: Tokens, time: Float[Array, "B t D"], grid: tuple[int, int, int]
    ) -> Float[Array, "B F H W O"]:
        """Returns the velocity from the tokens behind the blocks; time: of `embed_time`."""
        final = time[:, :, None] + self.head_modulation[...].astype(jnp.float32)[None]
        x = self.head(modulated_norm(x, final[:, :, 0], final[:, :, 1], eps=self.config.eps))
        patch = self.config.patch_size
        x = x.reshape(x.shape[0], *grid, *patch, -1).transpose(0, 1, 4, 2, 5, 3, 6, 7)
        t, h, w = (g * p for g, p in zip(grid, patch, strict=True))
        return x.reshape(x.shape[0], t, h, w, -1)

    def check(
        self,
        latents: Float[Array, "B T H W C"],
        timestep: Float[Array, "B t"],
        *,
        fps: Int[Array, "B"] | None,
        image: bool,
    ) -> tuple[int, int, int]:
        """Returns the token grid (time, height, width); raises `UserError` as the call does.

        image: whether there is an image.
        """
        config, size = self.config, latents.shape[1:4]
        grid = tuple(s // p for s, p in zip(size, config.patch_size, strict=True))
        if any(s % p for s, p in zip(size, config.patch_size, strict=True)):
            raise UserError(
                f"latents of {size} are not divisible by patches of {config.patch_size}"
            )
        if latents.shape[4] != config.in_channels:
            raise UserError(f"latents have {latents.shape[4]} channels, not {config.in_channels}")
        if timestep.shape[1] not in (1, grid[0]):
            raise UserError(
                f"timestep must be [B, 1] or [B, {grid[0]}] for these latents, got {timestep.shape}"
            )
        if grid[0] % config.num_frame_per_block:
            raise UserError(
                f"{grid[0]} latent frames are not divisible by num_frame_per_block = "
                f"{config.num_frame_per_block}"
            )
        if self.fps_embedder is not None and fps is None:
            raise UserError("this model has inject_sample_info: pass fps, frames per second [B]")
        if (self.image_embedder is not None) != image:
            needs = "takes no image_context" if image else "needs image_context"
            raise UserError(f"this model {needs} (image_dim = {config.image_dim})")
        return grid
