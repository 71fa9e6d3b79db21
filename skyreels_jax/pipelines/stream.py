"""Films of any length: window after window, each from the end of the one before.

What is carried over is `Carried`. Either the last frames are decoded and encoded again (the
official way, right for models trained on whole clips alone: the first latent frame of a window then
stands for one frame, as in every clip), or their latents are kept, with the cache of the causal
decoder, so that the film is one long clip (right for models also trained on windows from the middle
of longer clips). Causal models carry the keys and values of finished blocks instead (`causal`).
In every way a window costs the same time and memory wherever it is in the film.
"""

import collections
import dataclasses
import functools
from collections.abc import Callable, Generator, Iterator
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax.numpy as jnp
import numpy as np
from jax.sharding import Sharding
from jax.tree_util import Partial
from jaxtyping import Array, Float, Key, UInt8

from skyreels_jax.core.types import Latents, Params
from skyreels_jax.diffusion.grids import TimeGrid
from skyreels_jax.diffusion.plan import Plan, time_grid
from skyreels_jax.diffusion.sample import compiled_place
from skyreels_jax.pipelines import generate as parts
from skyreels_jax.pipelines.image_to_video import compiled_encode
from skyreels_jax.pipelines.lengths import Window
from skyreels_jax.pipelines.validate import Request

Model = tuple[Any, Params]  # graphdef and parameters
Frames = UInt8[np.ndarray, "F H W 3"]
IN_FLIGHT = 2  # chunks on the device: one is copied while the next is computed


class Carried(NamedTuple):
    """What films take from one window to the next, which is number `index`.

    prefix: the latents it starts from [B, P, h, w, C]; None: from noise alone.
    caches: of the decoder, one for each film, where pixels are not carried.
    memory: of the `Maker`, for all films.
    """

    index: int = 0
    prefix: Float[Array | np.ndarray, "B P h w C"] | None = None
    caches: tuple[Any, ...] = ()
    memory: Any = None

    def repeated(self, count: int) -> "Carried":
        """Returns this for `count` films that start alike."""
        if self.prefix is None:
            return self
        return self._replace(prefix=np.repeat(self.prefix, count, axis=0))


Made = tuple[Window, list[Frames], Carried]


@runtime_checkable
class Maker(Protocol):
    """Makes the latents of window after window, of films side by side."""

    def start(self, count: int, size: tuple[int, int]) -> Any:
        """Returns its memory before the first window of `count` films, None if it needs none.

        size: height and width of the latents.
        """

    def __call__(
        self, window: Window, x: Latents, told: parts.Told, *, keys: Key[Array, " B"], memory: Any
    ) -> Generator[None, None, tuple[Latents, Any]]:
        """Returns the latents of `window`, float32 [B, T, h, w, C], and the memory after it.

        It yields, at least once, whenever the device has got a row more to compute.
        x: noise, and given frames in their places. told: the same object while nothing changes.
        `memory` is destroyed, but not before the first row.
        """
        ...


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class WholeWindows:
    """A `Maker` that remembers nothing: the model sees all frames of a window at once.

    where: the devices that share the work, and all have the latents; None: the default one.
    """

    model: Model
    request: Request
    progress: Callable[[int], Any] | None = None
    where: Sharding | None = None

    @functools.cached_property
    def _known(self) -> parts.Readings:
        return parts.Readings(*self.model, scale=self.request.guidance_scale)

    def start(self, count: int, size: tuple[int, int]) -> None:
        """Returns None."""

    def __call__(
        self, window: Window, x: Latents, told: parts.Told, *, keys: Key[Array, " B"], memory: None
    ) -> Generator[None, None, tuple[Latents, None]]:
        graphdef, params = self.model
        model = Partial(parts.ReadModel(graphdef), self._known(told))
        velocity = parts.steered(model, self.request.guidance_scale)
        grid, cache, residuals = window_grid(window.plan), self.request.step_cache, None
        if cache is not None:
            embed, fps = parts.step_cache_embedding(graphdef, params), told[0].get("fps")
            velocity, residuals = cache.wrap(velocity, grid, embed, x, fps=fps)
        how = {"solver": self.request.solver, "keys": keys, "memory": residuals}
        rows = parts.denoise(velocity, x, grid, where=self.where, progress=self.progress, **how)
        return (yield from rows), None


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Films:
    """Films side by side, one for each of `seeds`, as `request` wants them.

    size: height, width and channels of the latents.
    conditions: window -> what the model is told, the same object while nothing changes.
    shown: how many of the films are decoded; the rest repeat the last one to fill a batch.
    suffix: latents to lead to behind the last window [1, 1, h, w, C].
    noise: of the whole film, instead of that of the seeds [B, T, h, w, C].
    keep: called with the latents of each window before they are decoded.
    """

    make: Maker
    vae: Model
    request: Request
    seeds: tuple[int, ...]
    size: tuple[int, int, int]
    conditions: Callable[[Window], parts.Told]
    shown: int
    suffix: Float[Array | np.ndarray, "1 S h w C"] | None = None
    noise: Float[np.ndarray, "B T h w C"] | None = None
    keep: Callable[[np.ndarray], Any] | None = None

    def windows(self, carried: Carried) -> Iterator[Made]:
        """Yields each window from `carried.index` on, the frames it adds to each film, and what is
        carried on; caches and memory there may be gone when the next window is asked for.

        The device has the next window's first row while these frames are decoded, fetched, and
        used: it does not wait, and what it holds for that are the latents of a window. What goes
        wrong there is raised when that window is asked for, behind the one that is finished.
        """
        windows = self.request.film.windows(carried.index)
        window, rows = next(windows, None), None
        while window is not None:
            rows = self._begun(window, carried) if rows is None else rows
            latents, memory = parts.finished(rows)
            latents = np.asarray(latents)[:, : latents.shape[1] - window.plan.suffix]
            if self.keep is not None:
                self.keep(latents)
            shown, carried = self._show(latents, window, carried._replace(memory=memory))
            following, rows, wrong = next(windows, None), None, None
            try:
                rows = None if following is None else self._begun(following, carried)
            except BaseException as error:
                wrong = error
            try:
                yield window, [film.frames() for film in shown], carried
                if wrong is not None:
                    raise wrong
            finally:
                wrong = None  # it holds this frame, and with that the model
            window = following

    def _begun(self, window: Window, carried: Carried) -> Generator:
        """Returns the rows of `window`, the first of which is under way."""
        rows = self.latents(window, self._noise(window), carried)
        next(rows)
        return rows

    def latents(
        self, window: Window, x: Latents, carried: Carried
    ) -> Generator[None, None, tuple[Latents, Any]]:
        """Returns what the model makes of `x`, noise or what is noised, and its memory after it,
        row by row (see `Maker`)."""
        suffix, memory = self.suffix if window.plan.suffix else None, carried.memory
        if memory is None:
            memory = self.make.start(len(self.seeds), self.size[:2])
        return self.make(
            window,
            x if carried.prefix is suffix is None else compiled_place(x, carried.prefix, suffix),
            self.conditions(window),
            keys=parts.window_keys(self.seeds, window.index),
            memory=memory,
        )

    def _noise(self, window: Window) -> Latents:
        frames = window.plan.latent_frames
        if self.noise is not None:
            own = self.noise[:, window.start : window.start + frames]
            return jnp.asarray(np.pad(own, [(0, 0), (0, window.plan.suffix), *[(0, 0)] * 3]))
        return parts.initial_noise(self.seeds, (frames, *self.size), window=window.index)

    def _show(self, latents: np.ndarray, window: Window, carried: Carried) -> tuple:
        """Returns the frames that `window` adds to each film, and what the next one starts from."""
        film = self.request.film
        keeps = film.carry != "pixels"
        again = 0 if window.last or keeps else film.overlap
        shown, tails, caches = [], [], []
        for row in range(self.shown):
            cache = carried.caches[row] if carried.caches else None
            new, tail, cache = decoding(
                self.vae, latents[row : row + 1], skip=window.shown, again=again, cache=cache
            )
            shown.append(new)
            tails.append(tail)
            caches.append(cache)
        if window.last:
            return shown, Carried(window.index + 1)
        if keeps:
            prefix = latents[:, latents.shape[1] - film.overlap :] if film.overlap else None
            return shown, Carried(window.index + 1, prefix, tuple(caches), carried.memory)
        history, temporal = film.overlap_history, film.temporal
        rows = [encode_video(self.vae, t[:, -history:], temporal=temporal) for t in tails]
        rows += rows[-1:] * (len(self.seeds) - self.shown)
        return shown, Carried(window.index + 1, np.concatenate(rows))


def window_grid(plan: Plan) -> TimeGrid:
    """Returns the rows of `plan`; one column where all frames move together."""
    grid = time_grid(plan)
    columns = (grid.timestep, grid.sigma, grid.sigma_next, grid.update)
    if grid.noised is not None or any((column != column[:, :1]).any() for column in columns):
        return grid
    return grid._replace(
        **{
            name: getattr(grid, name)[:, :1]
            for name in ("timestep", "sigma", "sigma_next", "update")
        }
    )


class Shown:
    """Frames on their way from the device, bytes."""

    def __init__(self):
        self._here: list[Frames] = []
        self._coming: collections.deque[Array] = collections.deque()

    def add(self, pixels: UInt8[Array, "1 F H W 3"]) -> None:
        """Takes the next ones, which may still be computed; waits for those two before."""
        pixels.copy_to_host_async()
        self._coming.append(pixels)
        if len(self._coming) > IN_FLIGHT:
            self._here.append(np.asarray(self._coming.popleft())[0])

    def frames(self) -> Frames:
        """Returns all of them."""
        while self._coming:
            self._here.append(np.asarray(self._coming.popleft())[0])
        return np.concatenate(self._here)


def decode_window(
    vae: Model, latents: Float[np.ndarray, "1 T h w C"], **how: Any
) -> tuple[Frames, Float[np.ndarray, "1 G H W 3"] | None, Any]:
    """Returns what `decoding` does, its frames once they are here."""
    shown, tail, cache = decoding(vae, latents, **how)
    return shown.frames(), tail, cache


def decoding(
    vae: Model,
    latents: Float[np.ndarray, "1 T h w C"],
    *,
    skip: int = 0,
    again: int = 0,
    cache: Any = None,
) -> tuple[Shown, Float[np.ndarray, "1 G H W 3"] | None, Any]:
    """Returns the frames of `latents` but for the first `skip` of these, those of the last `again`
    as numbers in [-1, 1] (None: no such), and the cache of the decoder.

    cache: of the film so far, to which the first `skip` latents belong; None: a clip starts with
    them. One latent frame at a time is decoded: two compiled programs, the first frame's and all
    others', serve films of any length.
    """
    shown, kept = Shown(), collections.deque(maxlen=again)
    for index in range(0 if cache is None else skip, latents.shape[1]):
        pixels, video, cache = parts.compiled_decode(*vae, latents[:, index : index + 1], cache)
        if index >= skip:
            shown.add(pixels)
        kept.append(video)
    tail = np.concatenate([np.asarray(video) for video in kept], axis=1) if again else None
    return shown, tail, cache


def encode_video(
    vae: Model, video: Float[np.ndarray, "1 F H W 3"], *, temporal: int
) -> Float[np.ndarray, "1 T h w C"]:
    """Returns the normalised latents of 1 + temporal k frames in [-1, 1], chunk by chunk."""
    chunk, cache = compiled_encode(*vae, video[:, :1], None)
    rows = [chunk]
    for start in range(1, video.shape[1], temporal):
        chunk, cache = compiled_encode(*vae, video[:, start : start + temporal], cache)
        rows.append(chunk)
        if len(rows) > IN_FLIGHT:  # the device has its next one by then
            rows[-1 - IN_FLIGHT] = np.asarray(rows[-1 - IN_FLIGHT])
    return np.concatenate([np.asarray(row) for row in rows], axis=1)


def encode_frames(vae: Model, frames: Frames, *, temporal: int) -> Float[np.ndarray, "1 T h w C"]:
    """Returns the latents of frames from outside, a clip of their own."""
    unit = frames.astype(np.float32) / np.float32(255.0)
    return encode_video(vae, (np.float32(2.0) * unit - np.float32(1.0))[None], temporal=temporal)
