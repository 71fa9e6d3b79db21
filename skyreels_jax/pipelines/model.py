"""A loaded model: `generate` makes films from sentences, and from an image where it can."""

import dataclasses
import functools
import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

import skyreels_jax
from skyreels_jax.core.config import to_dict
from skyreels_jax.core.tree import cast
from skyreels_jax.core.types import Params
from skyreels_jax.models.kinds import in_float32
from skyreels_jax.models.umt5.text import clean_prompt
from skyreels_jax.nn.whole import put_together
from skyreels_jax.parallel.mesh import MeshConfig, make_mesh
from skyreels_jax.pipelines import generate as parts
from skyreels_jax.pipelines.causal import CachedBlocks
from skyreels_jax.pipelines.divided import check_mesh, whole
from skyreels_jax.pipelines.film import Film
from skyreels_jax.pipelines.film_stream import FilmStream, carried_on
from skyreels_jax.pipelines.image_to_video import image_conditions
from skyreels_jax.pipelines.lengths import Window
from skyreels_jax.pipelines.lora import Adapted, Lora
from skyreels_jax.pipelines.recipe import Recipe
from skyreels_jax.pipelines.state import FilmState, read_state
from skyreels_jax.pipelines.story import Story
from skyreels_jax.pipelines.stream import Carried, Films, Maker, WholeWindows, encode_frames
from skyreels_jax.pipelines.stream_request import resumed_request, stream_request
from skyreels_jax.pipelines.validate import Request, check_latents
from skyreels_jax.pipelines.video import Frames, fitted
from skyreels_jax.pipelines.video_to_video import reconstructed, remade

if TYPE_CHECKING:
    from skyreels_jax.pipelines.source import ModelSource

SLOW_FPS, FPS = 16, 24  # the fps embedding knows two rates: 16, and anything else
Number = float | int


class VideoModel:
    """A text-to-video or image-to-video model and its weights; `skyreels_jax.load` makes one.

    source: where it came from, and what it can make.
    dtype: of text encoder and transformer; the VAE is float32, as in the official pipeline.
    model, vae, image_encoder: (graphdef, params) of `TextToVideo`, of the VAE, and of the CLIP
    encoder of an image-to-video model.
    lora: the adapters of films that do not name others.
    mesh: how devices share the work (`divided`); None: one does it all.
    """

    def __init__(
        self,
        source: "ModelSource",
        *,
        dtype: str,
        model: tuple[Any, Params],
        vae: tuple[Any, Params],
        image_encoder: tuple[Any, Params] | None = None,
        lora: tuple[Lora, ...] = (),
        mesh: MeshConfig | None = None,
    ):
        self.source = source
        self._mesh = mesh
        self.dtype = dtype
        self.lora = lora
        self._graphdef = model[0]
        self._adapted = Adapted(model[1], lambda: source.transformer_names)
        self._vae = vae
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
        solver: str | None = None,
        schedule: str | None = None,
        fps: Number | None = None,
        seed: int | Sequence[int] = 0,
        dtype: str | None = None,
        batch_size: int | None = None,
        teacache: bool | None = None,
        teacache_thresh: Number | None = None,
        use_ret_steps: bool | None = None,
        force_teacache: bool | None = None,
        lora: Any = None,
        image: Any = None,
        end_image: Any = None,
        video_path: Any = None,
        latents: Float[Array | np.ndarray, "B T H W C"] | None = None,
        progress: Callable[[int], Any] | None = None,
        **windows: Any,
    ) -> Film | list[Film]:
        """Returns a film, or a list of films for a list of prompts; None: the model's default.

        seed: one for all films, or one each. A film depends on its own prompt and seed only: it is
        the same (to rounding) in a batch and alone.
        dtype: "float32" or "bfloat16".  batch_size: films denoised side by side.
        solver, schedule: what makes the steps, and where they are (see `Defaults`).
        teacache, teacache_thresh, use_ret_steps, force_teacache: the step cache (see `Defaults`).
        lora: adapters, one or several: "PATH", "PATH:SCALE" or (path, scale); None: those that the
        model was loaded with, (): none. They are merged into the weights while films ask for them.
        image: what the films start from, for image-to-video models, which need one, and for
        diffusion-forcing models: a file, a Pillow image or an array uint8 [H, W, 3]. It is cut to
        the aspect of the film; an upright one swaps the sides of a film that is not upright.
        end_image: what the films lead to. video_path: a file, or frames uint8 [F, H, W, 3], that
        the films show first and continue; `num_frames` counts the last overlap_history of them.
        windows: how films longer than base_num_frames are made: that and overlap_history,
        addnoise_condition, ar_step, causal_block_size, carry, sink_frames (see `Defaults`). These,
        end_image and video_path are for diffusion-forcing models alone.
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
            solver=solver,
            schedule=schedule,
            fps=fps,
            seed=seed,
            dtype=self.dtype if dtype is None else dtype,
            batch_size=batch_size,
            teacache=teacache,
            teacache_thresh=teacache_thresh,
            use_ret_steps=use_ret_steps,
            force_teacache=force_teacache,
            lora=self.lora if lora is None else lora,
            image=image,
            end_image=end_image,
            video_path=video_path,
            **windows,
        )
        films = list(self.films(request, latents=latents, progress=progress))
        return films[0] if isinstance(prompt, str) else films

    def stream(
        self,
        prompts: Any,
        *,
        seconds: Number | None = None,
        num_frames: int | None = None,
        crossfade: Number = 0.0,
        seed: int = 0,
        progress: Callable[[int], Any] | None = None,
        **options: Any,
    ) -> FilmStream:
        """Returns an iterator over the frames of one film, a window at a time, in constant memory.

        prompts: one text, several that share the film equally, (second, text) pairs, or the path of
        a file with a prompt or `second: prompt` a line. A window shows what holds in its middle.
        seconds: the least to make; or num_frames, exactly; without either the film has no end.
        crossfade: for how many seconds around each change both prompts are mixed.
        options: as for `generate`, which makes the same film of the same arguments.
        Its `state` can be saved after each window, and `resume` goes on from it.
        Only for diffusion-forcing models. Raises `UserError` before any work.
        """
        options["dtype"] = options.get("dtype") or self.dtype
        if options.get("lora") is None:
            options["lora"] = self.lora
        request, story = stream_request(
            self.source,
            prompts,
            seconds=seconds,
            num_frames=num_frames,
            crossfade=crossfade,
            seed=seed,
            **options,
        )
        return self.open_stream(request, story, progress=progress)

    def open_stream(
        self, request: Request, story: Story, *, progress: Callable[[int], Any] | None = None
    ) -> FilmStream:
        """Returns the film of a checked request, before its first frame."""
        start, suffix = self._given_latents(request)
        return FilmStream(
            self._one_film(request, story, suffix, progress),
            story=story,
            recipe=self._recipe(request, 0, None),
            carried=start,
            before=self._shown_before(request),
        )

    def resume(
        self,
        state: FilmState | str | os.PathLike,
        *,
        seconds: Number | None = None,
        progress: Callable[[int], Any] | None = None,
    ) -> FilmStream:
        """Returns the film that goes on from `state`: its frames are those it would have had.

        state: a `FilmStream.state`, or the path of a saved one.  seconds: another length for it.
        Raises `UserError` for the state of another model, or of a film that is complete.
        """
        state = state if isinstance(state, FilmState) else read_state(state)
        request = resumed_request(self.source, state, seconds=seconds)
        films = self._one_film(request, state.story, state.suffix, progress)
        return FilmStream(
            films,
            story=state.story,
            recipe=dataclasses.replace(
                state.recipe, model_id=self.source.model_id, num_frames=request.num_frames
            ),
            carried=carried_on(state, films),
            frames=state.frames,
        )

    def remake(self, request: Request, clip: Frames, *, level: float) -> Frames:
        """Returns `clip`, noised to `level` in (0, 1] and denoised from there, as a checked request
        of one window wants it; see `video_to_video`."""
        films = self._one_film(request, Story(segments=((0.0, request.prompts[0]),)), None, None)
        return remade(films, clip, level=level)

    def reconstruct(self, clip: Frames) -> Frames:
        """Returns `clip` encoded and decoded by the VAE; see `video_to_video`."""
        return reconstructed(self._vae, clip, self.source.geometry)

    def steps(self, request: Request) -> int:
        """Returns how many times `films` will call `progress(1)`."""
        rows = sum(window.plan.rows for window in request.film.windows())
        return rows * len(request.batches())

    def films(
        self,
        request: Request,
        *,
        latents: Float[Array | np.ndarray, "B T H W C"] | None = None,
        progress: Callable[[int], Any] | None = None,
        keep: Callable[[np.ndarray], Any] | None = None,
    ) -> Iterator[Film]:
        """Yields the films of a checked request as they are made, in the order of its prompts.

        keep: called with the latents of each window of each batch, float32 [B, T, h, w, C], before
        they are decoded; the last films of the last batch may repeat one.
        """
        count = len(request.prompts)
        shape = self.source.geometry.latent_shape(
            num_frames=request.num_frames, height=request.height, width=request.width
        )
        if latents is not None:
            latents = check_latents(latents, (count, *shape))
        check_mesh(self._mesh, self.source, request)
        params = self._params_in(request)
        prompts = [clean_prompt(text) for text in request.prompts]
        negative = clean_prompt(request.negative_prompt)
        texts = [*prompts, negative]
        contexts = parts.Contexts(self._graphdef, params, self.source.tokenizer, texts)
        image = self._image_conditions(request)
        start, suffix = self._given_latents(request)
        make = self._maker(request, params, progress)
        before = list(self._shown_before(request))
        for rows in request.batches():
            cond = self._condition([contexts[prompts[i]] for i in rows], request, image)
            null_cond = self._condition([contexts[negative]] * len(rows), request, image)
            shown = len(set(rows))
            films = Films(
                make=make,
                vae=self._vae,
                request=request,
                seeds=tuple(request.seeds[i] for i in rows),
                size=shape[1:],
                conditions=lambda _, both=(cond, null_cond): both,
                shown=shown,
                suffix=suffix,
                noise=None if latents is None else latents[rows],
                keep=keep,
            )
            made = [[*before] for _ in range(shown)]
            for _, frames, _ in films.windows(start.repeated(len(rows))):
                for film, new in zip(made, frames, strict=True):
                    film.append(new)
            for chunks, i in zip(made, rows, strict=False):
                given = None if latents is None else latents[i]
                meta = to_dict(self._recipe(request, i, given))
                yield Film(frames=np.concatenate(chunks), fps=request.fps, meta=meta)

    def _one_film(
        self,
        request: Request,
        story: Story,
        suffix: np.ndarray | None,
        progress: Callable[[int], Any] | None,
    ) -> Films:
        """Returns what makes the windows of a story."""
        check_mesh(self._mesh, self.source, request)
        params, negative = self._params_in(request), clean_prompt(request.negative_prompt)
        texts = [*map(clean_prompt, story.prompts), negative]
        contexts = parts.Contexts(self._graphdef, params, self.source.tokenizer, texts)

        @functools.lru_cache(maxsize=1)
        def told(mixture: tuple[tuple[float, str], ...]) -> parts.Told:
            both = contexts.mixture(mixture), contexts[negative]
            cond, null_cond = (self._condition([context], request, {}) for context in both)
            return cond, null_cond

        def conditions(window: Window) -> parts.Told:
            mixture = story.mixture(window.middle / request.fps)
            return told(tuple((weight, clean_prompt(text)) for weight, text in mixture))

        return Films(
            make=self._maker(request, params, progress),
            vae=self._vae,
            request=request,
            seeds=request.seeds,
            size=self._latent_size(request),
            conditions=conditions,
            shown=1,
            suffix=suffix,
        )

    def _maker(
        self, request: Request, params: Params, progress: Callable[[int], Any] | None
    ) -> Maker:
        """Returns what makes the windows of films."""
        model = self._graphdef, params
        if request.film.cached:
            transformer = put_together(*model).transformer
            return CachedBlocks.of(transformer, request, progress=progress)
        where = None if self._mesh is None else whole(make_mesh(self._mesh))
        return WholeWindows(model=model, request=request, progress=progress, where=where)

    def _latent_size(self, request: Request) -> tuple[int, ...]:
        """Returns height, width and channels of a latent frame."""
        size = {"height": request.height, "width": request.width}
        return self.source.geometry.latent_shape(num_frames=1, **size)[1:]

    def _given_latents(self, request: Request) -> tuple[Carried, np.ndarray | None]:
        """Returns what the first window starts from, and the latents behind the last."""
        if not self.source.forcing:
            return Carried(), None

        def encode(frames: Any) -> np.ndarray:
            return encode_frames(self._vae, frames, temporal=request.film.temporal)

        size, start = (request.height, request.width), Carried()
        if request.image is not None:
            start = Carried(prefix=encode(fitted(request.image.pixels, *size)[None]))
        if request.video is not None:
            tail = request.video.tail(request.film.overlap_history, *size)
            start = Carried(prefix=encode(tail))
        if request.end_image is None:
            return start, None
        return start, encode(fitted(request.end_image.pixels, *size)[None])

    def _shown_before(self, request: Request) -> Iterator[np.ndarray]:
        """Yields the frames of the video that films continue, a window's at a time."""
        if request.video is not None:
            size = (request.height, request.width)
            yield from request.video.chunks(request.film.base_num_frames, *size)

    def _params_in(self, request: Request) -> Params:
        """Returns the parameters with the adapters of `request`; a cast for it is not kept."""
        params = self._adapted(request.lora)
        if request.dtype == self.dtype:
            return params
        return cast(params, request.dtype, kept=in_float32)

    def _image_conditions(self, request: Request) -> dict[str, Array]:
        """Returns the image as the model reads it, one row for all films; {} without one."""
        if request.image is None or not self.source.takes_image:
            return {}
        return image_conditions(
            request.image.pixels,
            (request.num_frames, request.height, request.width),
            vae=self._vae,
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
            cond["fps"] = np.full(len(contexts), rate, np.int32)
        return cond

    def _windows_said(self, request: Request) -> dict[str, Any]:
        """Returns what a recipe says of windows, nothing for films made in one go."""
        if not self.source.forcing:
            return {}
        end, video, film = request.end_image, request.video, request.film
        return {
            "end_image": None if end is None else end.path,
            "end_image_sha256": None if end is None else end.sha256,
            "video_path": None if video is None else video.path,
            "video_sha256": None if video is None else video.sha256,
            "base_num_frames": film.base_num_frames,
            "overlap_history": film.overlap_history,
            "addnoise_condition": film.addnoise_condition,
            "ar_step": film.ar_step,
            "causal_block_size": film.causal_block_size,
            "carry": film.carry,
            "sink_frames": film.sink_frames,
        }

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
            solver=request.solver,
            schedule=request.film.schedule,
            fps=request.fps,
            dtype=request.dtype,
            lora=request.lora,
            **_step_cache_said(request),
            latents=given,
            image=None if request.image is None else request.image.path,
            image_sha256=None if request.image is None else request.image.sha256,
            **self._windows_said(request),
            skyreels_jax=skyreels_jax.__version__,
            jax=jax.__version__,
            device=jax.devices()[0].device_kind,
        )


def _step_cache_said(request: Request) -> dict[str, Any]:
    """Returns what a recipe says of the step cache, nothing where there is none."""
    cache = request.step_cache
    if cache is None:
        return {}
    return {
        "teacache": True,
        "teacache_thresh": cache.threshold,
        "use_ret_steps": cache.use_ret_steps,
        "force_teacache": cache.force,
    }
