"""The decoder: latents to pixels. Structure and names follow diffusers' `WanDecoder3d`."""

from flax import nnx

from skyreels_jax.models.vae.config import VAEConfig
from skyreels_jax.models.vae.encoder import MidBlock
from skyreels_jax.models.vae.fold import check_spread, spread
from skyreels_jax.models.vae.layers import ChannelNorm, Frames, ResidualBlock, Resized, Upsample
from skyreels_jax.models.vae.stream import Stream
from skyreels_jax.nn.conv import CausalConv3D


class UpBlock(nnx.Module):
    """One Wan 2.1 decoder stage: residual blocks, then an upsampler that halves the width.

    `time` is None in the last stage, which keeps its size; else whether time is doubled too.
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
        self.resnets = _resnets(width, out_width, blocks=blocks, dropout=dropout, rngs=rngs)
        self.upsamplers = nnx.List()
        if time is not None:
            self.upsamplers.append(Upsample(out_width, out_width // 2, time=time, rngs=rngs))

    def __call__(self, x: Frames, stream: Stream) -> Resized:
        for block in (*self.resnets, *self.upsamplers):
            x = block(x, stream)
        return x


class ResidualUpBlock(nnx.Module):
    """One Wan 2.2 decoder stage: residual blocks and an upsampler, plus the repeated input.

    The last stage (`time` None) keeps its size and has no shortcut.
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
        self.resnets = _resnets(width, out_width, blocks=blocks, dropout=dropout, rngs=rngs)
        self.upsampler = (
            Upsample(out_width, out_width, time=time, rngs=rngs) if time is not None else None
        )
        if time is not None:
            check_spread(width, out_width, time=self.time, space=2)

    def __call__(self, x: Frames, stream: Stream) -> Resized:
        source = x
        for block in self.resnets:
            x = block(x, stream)
        if self.upsampler is None:
            return x
        shortcut = spread(source, self.out_width, time=self.time, space=2, first=stream.first)
        return self.upsampler(x, stream) + shortcut


class Decoder(nnx.Module):
    """[B, t, h, w, z_dim] -> [B, T, H, W, out_channels] (not clipped)."""

    def __init__(self, config: VAEConfig, *, rngs: nnx.Rngs):
        widths = config.widths(config.decoder_dim)[:0:-1]
        self.conv_in = CausalConv3D(config.z_dim, widths[0], kernel_size=(3, 3, 3), rngs=rngs)
        self.mid_block = MidBlock(widths[0], dropout=config.dropout, rngs=rngs)
        self.up_blocks = nnx.List()
        width = widths[0]
        for i, time in enumerate((*config.temperal_downsample[::-1], None)):
            block = ResidualUpBlock if config.is_residual else UpBlock
            self.up_blocks.append(
                block(
                    width,
                    widths[i],
                    blocks=config.num_res_blocks + 1,
                    time=time,
                    dropout=config.dropout,
                    rngs=rngs,
                )
            )
            width = widths[i] if config.is_residual else widths[i] // 2
        self.norm_out = ChannelNorm(widths[-1])
        self.conv_out = CausalConv3D(
            widths[-1], config.out_channels, kernel_size=(3, 3, 3), rngs=rngs
        )

    def __call__(self, x: Frames, stream: Stream) -> Resized:
        x = stream.conv(self.conv_in, x)
        x = self.mid_block(x, stream)
        for block in self.up_blocks:
            x = block(x, stream)
        return stream.conv(self.conv_out, nnx.silu(self.norm_out(x)))


def _resnets(width: int, out_width: int, *, blocks: int, dropout: float, rngs: nnx.Rngs):
    return nnx.List(
        ResidualBlock(out_width if i else width, out_width, dropout=dropout, rngs=rngs)
        for i in range(blocks)
    )
