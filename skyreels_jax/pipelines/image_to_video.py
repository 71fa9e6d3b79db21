"""What an image-to-video model is told of its image: CLIP states, and channels beside the noise."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from skyreels_jax.core.programs import Program
from skyreels_jax.core.types import Latents, Params, Video
from skyreels_jax.models.clip.preprocess import CLIPImageConfig, preprocess
from skyreels_jax.pipelines.generate import Method, compiled_call
from skyreels_jax.pipelines.image import Pixels, crop_to_aspect, resize

Model = tuple[Any, Params]  # graphdef and parameters


def image_conditions(
    pixels: Pixels,
    shape: tuple[int, int, int],
    *,
    vae: Model,
    image_encoder: Model,
    processor: CLIPImageConfig,
    temporal: int,
) -> dict[str, Array]:
    """Returns {"image_context" [1, Si, I], "image_channels" [1, T, h, w, temporal + z]}, float32.

    shape: (frames, height, width) of the film in pixels; the image is cut to its aspect first, and
    both parts see the same cut. temporal: frames per latent frame after the first.
    Source: SkyReels-V2 (arXiv 2504.13074) section 5 and diffusers' image-to-video pipeline.
    """
    num_frames, height, width = shape
    cut = crop_to_aspect(pixels, height, width)
    seen = preprocess(cut, processor)[None]
    graphdef, params = image_encoder
    latents = first_frame_latents(vae, resize(cut, height, width), num_frames, temporal=temporal)
    return {
        "image_context": compiled_call(Method(graphdef, "__call__"), params, seen),
        "image_channels": jnp.concatenate([first_frame_mask(latents, temporal), latents], axis=-1),
    }


def first_frame_latents(
    vae: Model, pixels: Pixels, num_frames: int, *, temporal: int
) -> Float[Array, "1 T h w C"]:
    """Returns the normalised latents [1, T, h, w, C] of a clip: the image, then grey (zero) frames.

    Encoded `temporal` frames at a time: memory does not grow with length.
    """
    graphdef, params = vae
    frame = np.float32(2.0) * (pixels.astype(np.float32) / np.float32(255.0)) - np.float32(1.0)
    latents, cache = compiled_encode(graphdef, params, frame[None, None], None)
    rows, grey = [latents], np.zeros((1, temporal, *pixels.shape), np.float32)
    for _ in range((num_frames - 1) // temporal):
        latents, cache = compiled_encode(graphdef, params, grey, cache)
        rows.append(latents)
    return jnp.concatenate(rows, axis=1)


def first_frame_mask(latents: Latents, channels: int) -> Float[Array, "B T H W M"]:
    """Returns 1 for the first latent frame, which shows the image, and 0 for all others."""
    mask = jnp.zeros((*latents.shape[:-1], channels), latents.dtype)
    return mask.at[:, 0].set(1.0)


def encode_chunk(graphdef: Any, params: Params, video: Video, cache: Any) -> tuple[Array, Any]:
    vae = nnx.merge(graphdef, params)
    (mean, _), cache = vae.encode_chunk(video, cache)
    return vae.normalize(mean), cache


compiled_encode = Program(encode_chunk, static=[0], donate=[3])
