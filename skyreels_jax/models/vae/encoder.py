"""The encoder: pixels to latent moments. Structure and names follow diffusers' `WanEncoder3d`."""

from flax import nnx

from skyreels_jax.models.vae.config import VAEConfig
from skyreels_jax.models.vae.fold import check_pool, pool
from skyreels_jax.models.vae.layers import (
    AttentionBlock,
    ChannelNorm,
    Downsample,
    Frames,
    ResidualBlock,
    Resized,
)
from skyreels_jax.models.vae.stream import Stream
from skyreels_jax.nn.conv import CausalConv3D


class MidBlock(nnx.Module):
    """Residual block, attention, residual block."""

    def __init__(self, width: int, *, dropout: float, rngs: nnx.Rngs):
        make = lambda: ResidualBlock(width, width, dropout=dropout, rngs=rngs)  # noqa: E731
        self.resnets = nnx.List([make(), make()])
        self.attentions = nnx.List([AttentionBlock(width, rngs=rngs)])

    def __call__(self, x: Frames, stream: Stream) -> Frames:
        x = self.resnets[0](x, stream)
        x = self.attentions[0](x, stream)
        return self.resnets[1](x, stream)


class ResidualDownBlock(nnx.Module):
    """One Wan 2.2 encoder stage: residual blocks and a downsampler, plus the pooled input.

    `time` is None in the last stage, which keeps its size; else whether time is halved too.
    """

    def __init__(
        self,
        width: int,
        out_width: int,
        *,
        blocks: int,
        time: bool | None,
        dropout: float,
        rngs: nnx.Rngs,
    ):
        self.out_width = out_width
        self.time = 2 if time else 1
        self.space = 1 if time is None else 2
        check_pool(width, out_width, time=self.time, space=self.space)
        self.resnets = nnx.List()
        for i in range(blocks):
            self.resnets.append(
                ResidualBlock(out_width if i else width, out_width, dropout=dropout, rngs=rngs)
            )
        self.downsampler = None if time is None else Downsample(out_width, time=time, rngs=rngs)

    def __call__(self, x: Frames, stream: Stream) -> Resized:
        shortcut = pool(x, self.out_width, time=self.time, space=self.space, first=stream.first)
        for block in self.resnets:
            x = block(x, stream)
        if self.downsampler is not None:
            x = self.downsampler(x, stream)
        return x + shortcut


class Encoder(nnx.Module):
    """[B, T, H, W, in_channels] -> [B, t, h, w, 2 z_dim] (before the quantisation convolution)."""

    def __init__(self, config: VAEConfig, *, rngs: nnx.Rngs):
        widths = config.widths(config.base_dim)
        self.conv_in = CausalConv3D(config.in_channels, widths[0], kernel_size=(3, 3, 3), rngs=rngs)
        self.down_blocks = nnx.List(_stages(config, widths, rngs))
        self.mid_block = MidBlock(widths[-1], dropout=config.dropout, rngs=rngs)
        self.norm_out = ChannelNorm(widths[-1])
        self.conv_out = CausalConv3D(widths[-1], 2 * config.z_dim, kernel_size=(3, 3, 3), rngs=rngs)

    def __call__(self, x: Frames, stream: Stream) -> Resized:
        x = stream.conv(self.conv_in, x)
        for block in self.down_blocks:
            x = block(x, stream)
        x = self.mid_block(x, stream)
        return stream.conv(self.conv_out, nnx.silu(self.norm_out(x)))


def _stages(config: VAEConfig, widths: tuple[int, ...], rngs: nnx.Rngs) -> list[nnx.Module]:
    stages = []
    for i, time in enumerate((*config.temperal_downsample, None)):
        width, out_width = widths[i], widths[i + 1]
        if config.is_residual:
            stages.append(
                ResidualDownBlock(
                    width,
                    out_width,
                    blocks=config.num_res_blocks,
                    time=time,
                    dropout=config.dropout,
                    rngs=rngs,
                )
            )
            continue
        for _ in range(config.num_res_blocks):
            stages.append(ResidualBlock(width, out_width, dropout=config.dropout, rngs=rngs))
            if 2.0**-i in config.attn_scales:
                stages.append(AttentionBlock(out_width, rngs=rngs))
            width = out_width
        if time is not None:
            stages.append(Downsample(out_width, time=time, rngs=rngs))
    return stages
