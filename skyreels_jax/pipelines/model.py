"""A loaded model: `generate` makes films from sentences, and from an image where it can."""

import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

import skyreels_jax
from skyreels_jax.core.config import to_dict
from skyreels_jax.core.types import Params
from skyreels_jax.models.umt5.text import clean_prompt
from skyreels_jax.pipelines import generate as parts
from skyreels_jax.pipelines.film import Film
from skyreels_jax.pipelines.image_to_video import image_conditions
from skyreels_jax.pipelines.recipe import Recipe
from skyreels_jax.pipelines.validate import Request, check_latents

if TYPE_CHECKING:
    from skyreels_jax.pipelines.load import ModelSource

SLOW_FPS, FPS = 16, 24  # the fps embedding knows two rates: 16, and anything else
Number = float | int


class VideoModel:
    """A text-to-video or image-to-video model and its weights; `skyreels_jax.load` makes one.

    source: where it came from, and what it can make.
    dtype: of text encoder and transformer; the VAE is float32, as in the official pipeline.
    model, vae, image_encoder: (graphdef, params) of `TextToVideo`, of the VAE, and of the CLIP
    encoder of an image-to-video model.
    """

    def __init__(
        self,
        source: "ModelSource",
        *,
        dtype: str,
        model: tuple[Any, Params],
        vae: tuple[Any, Params],
        image_encoder: tuple[Any, Params] | None = None,
    ):
        self.source = source
        self.dtype = dtype
        self._graphdef, self._params = model
        self._vae_graphdef, self._vae_params = vae
        self._image_encoder = image_encoder

    def generate(
        self,
        prompt: str | Sequence[str],
        *,
        negative_prompt: str | None = None,
        num_frames: int | None = None,
        height: int | None = None,
        width: int | None = None,
        inference_steps: int | None = None,
        guidance_scale: Number | None = None,
        shift: Number | None = None,
        fps: Number | None = None,
        seed: int | Sequence[int] = 0,
        dtype: str | None = None,
        batch_size: int | None = None,
        image: Any = None,
        latents: Float[Array | np.ndarray, "B T H W C"] | None = None,
        progress: Callable[[int], Any] | None = None,
    ) -> Film | list[Film]:
        """Returns a film, or a list of films for a list of prompts; None: the model's default.

        seed: one for all films, or one each. A film depends on its own prompt and seed only: it is
        the same (to rounding) in a batch and alone.
        dtype: "float32" or "bfloat16".  batch_size: films denoised side by side.
        image: what the films start from, for image-to-video models, which need one: a file, a
        Pillow image or an array uint8 [H, W, 3]. It is cut to the aspect of the film; an upright
        one swaps the sides of a film that is not upright.
        latents: the initial noise instead of a seed's, float32 [B, T, H, W, C].
        progress: called with 1 after each of `steps(request)` denoising steps.
        Nothing is compiled again when only text, seed, guidance, shift or step count change.
        Raises `UserError` before any work if something asked for cannot be made.
        """
        request = self.source.request(
            prompt=prompt,
            negative_prompt=negative_prompt,
            num_frames=num_frames,
            height=height,
            width=width,
            inference_steps=inference_steps,
            guidance_scale=guidance_scale,
            shift=shift,
            fps=fps,
            seed=seed,
            dtype=self.dtype if dtype is None else dtype,
            batch_size=batch_size,
            image=image,
        )
        films = list(self.films(request, latents=latents, progress=progress))
        return films[0] if isinstance(prompt, str) else films

    def steps(self, request: Request) -> int:
        """Returns how many times `films` will call `progress(1)`."""
        return request.inference_steps * len(_batches(len(request.prompts), request.batch_size))

    def films(
        self,
        request: Request,
        *,
        latents: Float[Array | np.ndarray, "B T H W C"] | None = None,
        progress: Callable[[int], Any] | None = None,
    ) -> Iterator[Film]:
        """Yields the films of a checked request as they are made, in the order of its prompts."""
        count = len(request.prompts)
        shape = self.source.geometry.latent_shape(
            num_frames=request.num_frames, height=request.height, width=request.width
        )
        if latents is not None:
            latents = check_latents(latents, (count, *shape))
        params = self._params_in(request.dtype)
        prompts = [clean_prompt(text) for text in request.prompts]
        negative = clean_prompt(request.negative_prompt)
        texts = [*prompts, negative]
        contexts = parts.encode_texts(self._graphdef, params, self.source.tokenizer, texts)
        image = self._image_conditions(request)
        for rows in _batches(count, request.batch_size):
            if latents is None:
                noise = parts.initial_noise([request.seeds[i] for i in rows], shape)
            else:
                noise = jnp.asarray(latents[rows])
            cond = self._condition([contexts[prompts[i]] for i in rows], request, image)
            null_cond = self._condition([contexts[negative]] * len(rows), request, image)
            denoised = parts.denoise(
                self._graphdef, params, noise, cond, null_cond, request, progress=progress
            )
            denoised = np.asarray(denoised)
            for row, i in enumerate(dict.fromkeys(rows)):
                frames = parts.decode(self._vae_graphdef, self._vae_params, denoised[row : row + 1])
                given = None if latents is None else latents[i]
                meta = to_dict(self._recipe(request, i, given))
                yield Film(frames=frames, fps=request.fps, meta=meta)

    def _params_in(self, dtype: str) -> Params:
        """Returns the parameters in `dtype`; a cast for one request is not kept."""
        if dtype == self.dtype:
            return self._params
        return jax.tree.map(lambda leaf: leaf.astype(dtype), self._params)

    def _image_conditions(self, request: Request) -> dict[str, Array]:
        """Returns the image as the model reads it, one row for all films; {} without one."""
        if request.image is None:
            return {}
        return image_conditions(
            request.image.pixels,
            (request.num_frames, request.height, request.width),
            vae=(self._vae_graphdef, self._vae_params),
            image_encoder=self._image_encoder,
            processor=self.source.image_processor,
            temporal=self.source.geometry.temporal,
        )

    def _condition(
        self, contexts: list, request: Request, image: dict[str, Array]
    ) -> dict[str, Array]:
        cond = jax.tree.map(lambda *rows: jnp.concatenate(rows), *contexts)
        cond |= {name: jnp.repeat(row, len(contexts), axis=0) for name, row in image.items()}
        if self.source.tells_fps:
            rate = SLOW_FPS if request.fps == SLOW_FPS else FPS
            cond["fps"] = jnp.full(len(contexts), rate, jnp.int32)
        return cond

    def _recipe(self, request: Request, index: int, latents: np.ndarray | None) -> Recipe:
        given = None
        if latents is not None:
            given = hashlib.sha256(np.ascontiguousarray(latents).tobytes()).hexdigest()
        return Recipe(
            model_id=self.source.model_id,
            fingerprint=self.source.fingerprint,
            prompt=request.prompts[index],
            negative_prompt=request.negative_prompt,
            seed=request.seeds[index],
            num_frames=request.num_frames,
            height=request.height,
            width=request.width,
            inference_steps=request.inference_steps,
            guidance_scale=request.guidance_scale,
            shift=request.shift,
            fps=request.fps,
            dtype=request.dtype,
            latents=given,
            image=None if request.image is None else request.image.path,
            image_sha256=None if request.image is None else request.image.sha256,
            skyreels_jax=skyreels_jax.__version__,
            jax=jax.__version__,
            device=jax.devices()[0].device_kind,
        )


def _batches(count: int, size: int) -> list[list[int]]:
    """Returns sample numbers in equal batches of at most `size`; the last may repeat the end."""
    number = math.ceil(count / size)
    size = math.ceil(count / number)
    rows = [min(i, count - 1) for i in range(number * size)]
    return [rows[start : start + size] for start in range(0, len(rows), size)]
