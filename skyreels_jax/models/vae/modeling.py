"""The causal video VAE of Wan 2.1 and 2.2 (`AutoencoderKLWan`), whole clips and chunk by chunk."""

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from skyreels_jax.core.errors import UserError
from skyreels_jax.core.types import Latents, PRNGKey
from skyreels_jax.models.vae.config import VAEConfig
from skyreels_jax.models.vae.decoder import Decoder
from skyreels_jax.models.vae.encoder import Encoder
from skyreels_jax.models.vae.fold import patchify, unpatchify
from skyreels_jax.models.vae.stream import Cache, Stream, pointwise
from skyreels_jax.nn.conv import CausalConv3D

Pixels = Float[Array, "B frames height width channels"]  # in [-1, 1]
Moments = tuple[Latents, Latents]  # mean, log variance


class AutoencoderKLWan(nnx.Module):
    """Videos of 1 + 4k frames <-> latents of 1 + k frames, 8 times smaller along each side.

    (4 and 8 are `config.temporal_factor` and `config.spatial_factor`.) A whole clip is one first
    chunk; `encode_chunk` and `decode_chunk` continue a clip from a cache and give the same values
    as the whole clip does. Arrays are computed in the dtype of the parameters.
    """

    def __init__(self, config: VAEConfig, *, rngs: nnx.Rngs):
        self.config = config
        self.encoder = Encoder(config, rngs=rngs)
        z = config.z_dim
        self.quant_conv = CausalConv3D(2 * z, 2 * z, kernel_size=(1, 1, 1), rngs=rngs)
        self.post_quant_conv = CausalConv3D(z, z, kernel_size=(1, 1, 1), rngs=rngs)
        self.decoder = Decoder(config, rngs=rngs)

    def encode(self, video: Pixels, *, key: PRNGKey | None = None) -> Moments:
        """Returns mean and log variance (clipped to [-30, 20]) of the latents of a whole clip.

        `key` turns dropout on. Raises `UserError` unless T = 1 + 4k and H, W are multiples of 8.
        """
        return self._encode(video, Stream(key=key))

    def decode(self, latents: Latents, *, clip: bool = True, key: PRNGKey | None = None) -> Pixels:
        """Returns the video of a whole clip of (denormalised) latents, clipped to [-1, 1].

        `clip=False` leaves it as it is, so that pixels out of range have a gradient in training.
        `key` turns dropout on.
        """
        return self._decode(latents, Stream(key=key), clip=clip)

    def encode_chunk(self, video: Pixels, cache: Cache | None = None) -> tuple[Moments, Cache]:
        """Returns the moments of the next frames, and the cache for the frames after them.

        Without a cache the clip starts: 1 + 4k frames; afterwards 4k frames (k >= 1).
        """
        stream = Stream(cache)
        return self._encode(video, stream), stream.cache

    def decode_chunk(self, latents: Latents, cache: Cache | None = None) -> tuple[Pixels, Cache]:
        """Returns the frames of the next latents (any number), and the cache for those after them.

        Without a cache the clip starts: its first latent frame gives one frame, every other four.
        """
        stream = Stream(cache)
        return self._decode(latents, stream), stream.cache

    def normalize(self, latents: Latents) -> Latents:
        """Returns (latents - latents_mean) / latents_std: what the diffusion model sees."""
        mean, std = self._statistics(latents)
        return (latents - mean) / std

    def denormalize(self, latents: Latents) -> Latents:
        """Inverse of `normalize`."""
        mean, std = self._statistics(latents)
        return latents * std + mean

    def _encode(self, video: Pixels, stream: Stream) -> Moments:
        self._check_video(video, first=stream.first)
        moments = self.encoder(patchify(video, self.config.patch), stream)
        mean, logvar = jnp.split(pointwise(self.quant_conv, moments), 2, axis=-1)
        return mean, jnp.clip(logvar, -30.0, 20.0)

    def _decode(self, latents: Latents, stream: Stream, *, clip: bool = True) -> Pixels:
        if latents.shape[1] < 1 or latents.shape[-1] != self.config.z_dim:
            raise UserError(
                f"latents must be [B, T >= 1, H, W, {self.config.z_dim}], got {latents.shape}"
            )
        video = self.decoder(pointwise(self.post_quant_conv, latents), stream)
        video = unpatchify(video, self.config.patch)
        return jnp.clip(video, -1.0, 1.0) if clip else video

    def _statistics(self, latents: Latents) -> tuple[Array, Array]:
        values = (self.config.latents_mean, self.config.latents_std)
        mean, std = (jnp.asarray(v, latents.dtype).reshape(1, 1, 1, 1, -1) for v in values)
        return mean, std

    def _check_video(self, video: Pixels, *, first: bool) -> None:
        _, frames, height, width, channels = video.shape
        time, space = self.config.temporal_factor, self.config.spatial_factor
        want = self.config.in_channels // self.config.patch**2
        if channels != want:
            raise UserError(f"video must have {want} channels, last axis, got {channels}")
        if height % space or width % space or not height or not width:
            raise UserError(
                f"height and width must be multiples of {space}, got {height} x {width}"
            )
        rest = frames - 1 if first else frames
        if rest % time or rest < (0 if first else 1):
            legal = f"1 + {time}k" if first else f"a multiple of {time}"
            raise UserError(f"the number of frames must be {legal}, got {frames}")
