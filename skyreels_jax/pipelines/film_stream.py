"""A film while it is being made: an iterator of frames that can stop and go on at any window."""

import functools
import itertools
from collections.abc import Iterable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import UInt8

from skyreels_jax.core.errors import UserError
from skyreels_jax.pipelines.generate import decode_chunk
from skyreels_jax.pipelines.recipe import Recipe
from skyreels_jax.pipelines.state import FilmState
from skyreels_jax.pipelines.story import Story
from skyreels_jax.pipelines.stream import Carried, Films

Frames = UInt8[np.ndarray, "F H W 3"]


class FilmStream(Iterator[Frames]):
    """Yields the frames of one film, uint8 [F, H, W, 3], a window at a time.

    Before the first window come the frames of the video that the film continues, if it does.
    `frames` counts those that were yielded, `seconds` says how long they last.
    After an error it is at its end; what was yielded counts, and where nothing of what the film
    goes on from is destroyed yet, there still is its state.
    """

    def __init__(
        self,
        films: Films,
        *,
        story: Story,
        recipe: Recipe,
        carried: Carried,
        before: Iterable[Frames] = (),
        frames: int = 0,
    ):
        self.frames = frames
        self.story, self.plan = story, films.request.film
        self.fps = films.request.fps
        self._films, self._recipe = films, recipe
        self._carried: Carried | None = None  # not while the video is shown
        self._chunks = _chunks(films, carried, before)

    def __next__(self) -> Frames:
        chunk, after = next(self._chunks)
        self._carried, self.frames = after, self.frames + len(chunk)
        return chunk

    @property
    def seconds(self) -> float:
        """How long the frames last that were yielded."""
        return self.frames / self.fps

    @property
    def num_frames(self) -> int | None:
        """How many frames there will be, those of the video included; None: no end."""
        new = self.plan.new_frames
        return None if new is None else new + (self.plan.video_frames or 0)

    @property
    def has_state(self) -> bool:
        """Whether there is a `state`, without the copies that it is."""
        carried = self._carried
        if carried is None:
            return False
        leaves = jax.tree.leaves((carried.caches, carried.memory))
        return not any(isinstance(leaf, jax.Array) and leaf.is_deleted() for leaf in leaves)

    @property
    def state(self) -> FilmState | None:
        """What the film goes on from after the chunk yielded last; None before any window, and
        after an error in a window that has begun to destroy it."""
        if not self.has_state:
            return None
        carried = self._carried
        leaves = jax.tree.leaves((carried.caches, carried.memory))
        suffix = self._films.suffix
        return FilmState(
            recipe=self._recipe,
            story=self.story,
            film=self.plan,
            index=carried.index,
            frames=self.frames,
            prefix=None if carried.prefix is None else np.array(carried.prefix),
            suffix=None if suffix is None else np.array(suffix),
            # Copies: the next window destroys what is on the device.
            cache=tuple(np.array(leaf) for leaf in leaves),
        )


def _chunks(
    films: Films, carried: Carried, before: Iterable[Frames]
) -> Iterator[tuple[Frames, Carried | None]]:
    """Yields frames, and what the film goes on from behind them; None while the video is shown.

    Not a method: a stream that holds a generator that holds the stream would keep the whole model
    until Python looks for cycles.
    """
    for frames in before:
        yield frames, None
    for _, (frames,), after in films.windows(carried):
        yield frames, after


def carried_on(state: FilmState, films: Films) -> Carried:
    """Returns what the next window of `state` starts from.

    Raises `UserError` for arrays that are not those of `films`.
    """
    film, size = films.request.film, films.size

    def latents(count: int) -> jax.ShapeDtypeStruct | None:
        return jax.ShapeDtypeStruct((1, count, *size), np.float32) if count else None

    caches = ()
    if film.carry != "pixels":
        decode = functools.partial(decode_chunk, films.vae[0])
        caches = (jax.eval_shape(decode, films.vae[1], latents(1), None)[2],)
    memory = jax.eval_shape(lambda: films.make.start(1, size[:2]))
    leaves, structure = jax.tree.flatten((caches, memory))
    wanted = [latents(film.overlap), latents(int(film.end_image)), *leaves]
    found = [state.prefix, state.suffix, *state.cache]
    pairs = itertools.zip_longest(map(_said, found), map(_said, wanted), fillvalue=_said(None))
    for ours, needed in pairs:
        if ours != needed:
            raise UserError(f"the state is damaged: it holds {ours} where this film needs {needed}")
    caches, memory = jax.tree.unflatten(structure, state.cache)
    # A copy: the next window destroys it.
    return Carried(state.index, state.prefix, caches, jax.tree.map(jnp.array, memory))


def _said(array: Any) -> str:
    return "nothing" if array is None else f"{array.dtype} {list(array.shape)}"
