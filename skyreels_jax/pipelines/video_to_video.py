"""Video to video: a clip is noised to some level and denoised from there, by the one sampler.

The model's own distortions of a good clip, from mild to strong (SkyReels-V2, arXiv 2504.13074,
section on reinforcement learning): from its noised latents (v2v), from its first frame (i2v), from
its text alone (t2v).
"""

import dataclasses
from typing import TYPE_CHECKING, Any

import jax.numpy as jnp
import numpy as np

from skyreels_jax.core.errors import UserError
from skyreels_jax.data.preferences.model_kinds import ANEW, MODEL_KINDS
from skyreels_jax.diffusion.flow import interpolate
from skyreels_jax.pipelines import generate as parts
from skyreels_jax.pipelines.stream import Carried, Films, Model, decode_window, encode_frames
from skyreels_jax.pipelines.validate import Geometry
from skyreels_jax.pipelines.video import Frames

if TYPE_CHECKING:
    from skyreels_jax.pipelines.model import VideoModel


def remake(
    model: "VideoModel",
    kind: str,
    clip: Frames,
    prompt: str,
    strength: float,
    seed: int,
    **options: Any,
) -> Frames:
    """Returns `clip` made again by `model`, of the same shape.

    kind: v2v: from the clip noised to level `strength`; 1 is the film of its text. i2v, t2v: from
    its first frame, or from nothing of it; they know no strength but 1.
    options: as for `VideoModel.generate`.
    Raises `UserError` for another kind or strength, and for what the model cannot make.
    """
    if kind not in MODEL_KINDS:
        raise UserError(f"{kind!r} is not one of {', '.join(MODEL_KINDS)}")
    if not 0 < strength <= 1 or (kind in ANEW and strength != 1):
        legal = "1" if kind in ANEW else "more than 0, at most 1"
        raise UserError(f"strength {strength:g} of {kind} is out of range; legal: {legal}")
    frames, height, width = clip.shape[:3]
    options |= {"num_frames": frames, "height": height, "width": width, "seed": seed}
    if kind == "t2v":
        return model.generate(prompt, **options).frames
    if kind == "i2v":
        return model.generate(prompt, image=clip[0], **options).frames
    if model.source.takes_image:
        raise UserError(
            f"{model.source.model_id} starts from images; legal for v2v: text-to-video and "
            "diffusion-forcing models"
        )
    options = {"dtype": model.dtype, "lora": model.lora} | options
    if model.source.geometry.causal_block > 1:  # whose windows are single blocks by default
        options = {"carry": "latents"} | options
    request = model.source.request(prompt=prompt, **options)
    if request.film.count != 1:
        raise UserError(
            f"a clip of {frames} frames is more than one window; legal: base_num_frames {frames} "
            "or more, and carry pixels or latents"
        )
    return model.remake(request, clip, level=strength)


def reconstructed(model: Model, clip: Frames, geometry: Geometry) -> Frames:
    """Returns `clip` encoded and decoded by the VAE `model`: as good as its films can look.

    Raises `UserError` for a shape that it cannot encode.
    """
    frames, height, width = clip.shape[:3]
    temporal, spatial = geometry.temporal, geometry.spatial
    if (frames - 1) % temporal or height % spatial or width % spatial:
        raise UserError(
            f"a clip of {frames} frames of {height}x{width} cannot be encoded; legal: "
            f"{temporal}k + 1 frames, sides that are multiples of {spatial}"
        )
    return decode_window(model, encode_frames(model, clip, temporal=temporal))[0]


def remade(films: Films, clip: Frames, *, level: float) -> Frames:
    """Returns `clip` made again as the only window of `films`, from noise `level` on."""
    window = films.request.film.window(0)
    plan = dataclasses.replace(window.plan, level=level)
    latents = encode_frames(films.vae, clip, temporal=films.request.film.temporal)
    noise = parts.initial_noise(films.seeds, latents.shape[1:])
    x = interpolate(jnp.asarray(latents), noise, jnp.full((1, 1), plan.path[0], jnp.float32))
    rows = films.latents(dataclasses.replace(window, plan=plan), x, Carried())
    made = parts.finished(rows)[0]
    frames, _, _ = decode_window(films.vae, np.asarray(made))
    return frames
