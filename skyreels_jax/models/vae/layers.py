"""Layers of the VAE: channel norm, residual block, attention within a frame, resampling."""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from skyreels_jax.kernels.attention.api import attention
from skyreels_jax.models.vae.stream import Stream, pointwise
from skyreels_jax.nn.conv import CausalConv3D, Conv2D

Frames = Float[Array, "B T H W C"]
Resized = Float[Array, "B t h w c"]


class ChannelNorm(nnx.Module):
    """Scales every pixel's channel vector to length sqrt(C), then by `scale` [C]; in float32."""

    def __init__(self, channels: int):
        self.scale = nnx.Param(jnp.ones((channels,)))

    def __call__(self, x: Frames) -> Frames:
        scale = self.scale[...].astype(jnp.float32).reshape(1, 1, 1, 1, -1)
        y = x.astype(jnp.float32)
        # 1e-24 is the square of PyTorch's smallest length; below it the gradient is 0, not NaN.
        square = jnp.maximum(jnp.sum(y * y, axis=-1, keepdims=True), 1e-24)
        return (y * jax.lax.rsqrt(square) * (scale * x.shape[-1] ** 0.5)).astype(x.dtype)


class ResidualBlock(nnx.Module):
    """x + conv(silu(norm(conv(silu(norm(x)))))), with a 1x1x1 shortcut where the width changes."""

    def __init__(self, width: int, out_width: int, *, dropout: float, rngs: nnx.Rngs):
        self.norm1 = ChannelNorm(width)
        self.conv1 = CausalConv3D(width, out_width, kernel_size=(3, 3, 3), rngs=rngs)
        self.norm2 = ChannelNorm(out_width)
        self.conv2 = CausalConv3D(out_width, out_width, kernel_size=(3, 3, 3), rngs=rngs)
        self.conv_shortcut = (
            CausalConv3D(width, out_width, kernel_size=(1, 1, 1), rngs=rngs)
            if width != out_width
            else None
        )
        self.dropout = dropout

    def __call__(self, x: Frames, stream: Stream) -> Resized:
        shortcut = x if self.conv_shortcut is None else pointwise(self.conv_shortcut, x)
        x = stream.conv(self.conv1, nnx.silu(self.norm1(x)))
        x = stream.dropout(nnx.silu(self.norm2(x)), self.dropout)
        return shortcut + stream.conv(self.conv2, x)


class AttentionBlock(nnx.Module):
    """x + proj(attention(norm(x))): one head over the pixels of each frame."""

    def __init__(self, width: int, *, rngs: nnx.Rngs):
        self.norm = ChannelNorm(width)
        self.to_qkv = Conv2D(width, 3 * width, kernel_size=1, rngs=rngs)
        self.proj = Conv2D(width, width, kernel_size=1, rngs=rngs)
        # The official code starts this block as the identity.
        self.proj.kernel[...] = jnp.zeros(self.proj.kernel.shape)

    def __call__(self, x: Frames, stream: Stream) -> Frames:
        batch, frames, height, width, channels = x.shape
        qkv = self.to_qkv(self.norm(x)).reshape(batch * frames, height * width, 1, 3 * channels)
        query, key, value = jnp.split(qkv, 3, axis=-1)
        y = attention(query, key, value)
        return x + self.proj(y.reshape(x.shape))


class Downsample(nnx.Module):
    """Halves space with a stride-2 convolution and, with `time`, later frames' rate too.

    The clip's first frame keeps its own latent frame; of the rest, every two frames become one that
    sees them and the frame before.
    """

    def __init__(self, width: int, *, time: bool, rngs: nnx.Rngs):
        self.resample = Conv2D(
            width, width, kernel_size=3, stride=2, padding=((0, 1), (0, 1)), rngs=rngs
        )
        self.time_conv = (
            CausalConv3D(width, width, kernel_size=(3, 1, 1), time_stride=2, rngs=rngs)
            if time
            else None
        )

    def __call__(self, x: Frames, stream: Stream) -> Resized:
        x = self.resample(x)
        if self.time_conv is None:
            return x
        if not stream.first:
            return stream.conv(self.time_conv, x)
        head = x[:, :1]
        return jnp.concatenate([head, stream.conv(self.time_conv, x[:, 1:], start=head)], axis=1)


class Upsample(nnx.Module):
    """Doubles space (nearest, then a convolution to `out_width`) and, with `time`, later frames.

    The clip's first frame stays one frame, and the others never see it: their past starts as zeros.
    """

    def __init__(self, width: int, out_width: int, *, time: bool, rngs: nnx.Rngs):
        self.resample = Conv2D(width, out_width, kernel_size=3, rngs=rngs)
        self.time_conv = (
            CausalConv3D(width, 2 * width, kernel_size=(3, 1, 1), rngs=rngs) if time else None
        )

    def __call__(self, x: Frames, stream: Stream) -> Resized:
        if self.time_conv is not None:
            head, tail = (x[:, :1], x[:, 1:]) if stream.first else (x[:, :0], x)
            x = jnp.concatenate([head, _unfold_time(stream.conv(self.time_conv, tail))], axis=1)
        return self.resample(jnp.repeat(jnp.repeat(x, 2, axis=2), 2, axis=3))


def _unfold_time(x: Float[Array, "B T H W C2"]) -> Float[Array, "B T2 H W C"]:
    # The two halves of the channels are the two frames.
    batch, frames, height, width, channels = x.shape
    x = jnp.moveaxis(x.reshape(batch, frames, height, width, 2, channels // 2), 4, 2)
    return x.reshape(batch, 2 * frames, height, width, channels // 2)
