"""The compiled parts of making a film: text to context, noise to latents, latents to frames."""

import dataclasses
import functools
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Sharding
from jax.tree_util import Partial
from jaxtyping import Array, Float, Int, Key, UInt8, UInt32

from skyreels_jax.core.programs import Program
from skyreels_jax.core.rng import stream
from skyreels_jax.core.types import Latents, Params, Time
from skyreels_jax.diffusion.grids import TimeGrid
from skyreels_jax.diffusion.guidance import conditional, guided
from skyreels_jax.diffusion.sample import sample_steps
from skyreels_jax.diffusion.solvers import make_solver
from skyreels_jax.models.umt5.text import tokenize
from skyreels_jax.pipelines.teacache import Embed

MAX_TOKENS = 512
TOKEN_BUCKET = 64  # texts are padded to a multiple of this: a compiled program serves many lengths
KEPT_CONTEXTS = 4  # what a film needs at once: its prompt or two of them, and the negative one
Condition = Mapping[str, Array]
Told = tuple[Condition, Condition]  # what the model is told, and what it is steered away from
READ = ("context", "context_weight", "image_context")  # of conditions: what `read` makes text of
T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Method:
    """A method of a model as a function of its parameters: `Method(graphdef, name)(params, ...)`.

    Equal ones are equal to jit as well, so a second model of the same make compiles nothing.
    """

    graphdef: Any
    name: str

    def __call__(self, params: Params, *args: Any, **kwargs: Any) -> Any:
        return getattr(nnx.merge(self.graphdef, params), self.name)(*args, **kwargs)


def initial_noise(seeds: Sequence[int], shape: tuple[int, ...], *, window: int = 0) -> Latents:
    """Returns the unit Gaussian noise of a window [B, *shape], float32, each from its own seed."""
    return compiled_noise(tuple(shape), np.array(seeds, np.uint32), np.int32(window))


def window_keys(seeds: Sequence[int], window: int) -> Key[Array, " B"]:
    """Returns the keys of what is drawn while a window is made, one for each film."""
    return compiled_keys("window", np.array(seeds, np.uint32), np.int32(window))


def streams(name: str, seeds: UInt32[Array, " B"], step: Int[Array, ""]) -> Key[Array, " B"]:
    """Returns what `stream` does of each seed."""
    return jnp.stack([stream(jax.random.key(seed), name, step) for seed in seeds])


def noise(
    shape: tuple[int, ...], seeds: UInt32[Array, " B"], window: Int[Array, ""]
) -> Float[Array, "B T h w C"]:
    keys = streams("noise", seeds, window)
    return jnp.stack([jax.random.normal(key, shape, jnp.float32) for key in keys])


@dataclasses.dataclass(frozen=True)
class ReadModel:
    """A `TextToVideo` as a function of its parameters and what it was told: see `Readings`."""

    graphdef: Any

    def __call__(
        self, known: Mapping[str, Any], x: Latents, timestep: Time, **options: Any
    ) -> Latents:
        told = {name: value for name, value in known.items() if name != "params"}
        return nnx.merge(self.graphdef, known["params"])(x, timestep, **told, **options)


class Readings:
    """Parameters and all conditions of a model that can `read`: {"params", "text", ...}, of both
    sides where films are guided, the negative one first.

    Keys and values of text and image are computed when it is asked for something else than before,
    and kept: 2 x depth x tokens x width numbers a film and side.
    """

    def __init__(self, graphdef: Any, params: Params, *, scale: float):
        self._read, self._params = Method(graphdef, "read"), params
        self._guided = is_guided(scale)
        self._last: tuple[Told, dict[str, Any]] | None = None

    def __call__(self, told: Told) -> dict[str, Any]:
        if self._last is None or self._last[0] is not told:
            cond, null_cond = told
            sides = [null_cond, cond] if self._guided else [cond]
            self._last = told, compiled_reading(self._read, self._params, sides)
        return {"params": self._params, **self._last[1]}


def reading(method: Method, params: Params, sides: Sequence[Condition]) -> dict[str, Any]:
    """Returns conditions of several sides, side after side in a batch, as models read them."""
    both = {name: jnp.concatenate([side[name] for side in sides]) for name in sides[0]}
    text = method(params, **{name: both.pop(name) for name in READ if name in both})
    return {"text": text, **both}


class Contexts:
    """{"context" [1, S, E], "context_weight" [1, S]} of some texts, with one S for all of them.

    A text is encoded when it is asked for, and the last few are kept: memory does not grow with
    their number. One at a time: one compiled program, and a context that no other text touches.
    """

    def __init__(self, graphdef: Any, params: Params, tokenizer: Any, texts: Sequence[str]):
        unique = list(dict.fromkeys(texts))
        read = tokenize(tokenizer, unique, max_length=MAX_TOKENS, multiple=TOKEN_BUCKET)
        rows = zip(unique, read["input_ids"], read["length"], strict=True)
        tokens = {text: (ids[None], length[None]) for text, ids, length in rows}
        encode = Method(graphdef, "encode")

        @functools.lru_cache(maxsize=KEPT_CONTEXTS)
        def context(text: str) -> Mapping[str, Array]:  # without `self`, which keeps it: no cycle
            return compiled_call(encode, params, *tokens[text])

        self._context = context

    def __getitem__(self, text: str) -> Mapping[str, Array]:
        return self._context(text)

    def mixture(self, parts: Sequence[tuple[float, str]]) -> Mapping[str, Array]:
        """Returns the context of (weight, text), one or two with weights that sum to 1."""
        (_, first), *others = parts
        if not others:
            return self[first]
        ((share, second),) = others
        return compiled_mix(self[first], self[second], np.float32(share))


def mix(
    first: Mapping[str, Array], second: Mapping[str, Array], share: Float[Array, ""]
) -> dict[str, Array]:
    """Returns the context `share` of the way from one to another, both padded as pipelines do.

    Beyond a text its states are zero in either form, so states mix one by one; and the zeros that
    both have in common are those behind the longer text.
    """
    states = [part["context"].astype(jnp.float32) for part in (first, second)]
    states = (1 - share) * states[0] + share * states[1]
    weights = [part["context_weight"] for part in (first, second)]
    longer = [jnp.sum(weight > 0, axis=-1, keepdims=True) for weight in weights]
    weight = jnp.where(longer[0] > longer[1], *weights)
    return {"context": states.astype(first["context"].dtype), "context_weight": weight}


def is_guided(scale: float) -> bool:
    """Whether the model runs on two sides: guidance at 1 or below is none, as in diffusers."""
    return scale > 1


def steered(model: Partial, scale: float) -> Partial:
    """Returns the velocity function of `model`, which knows its conditions, guided where it is to
    be."""
    if not is_guided(scale):
        return conditional(model, {})
    # An array: of a number jax makes one by a program of its own.
    return guided(model, {}, {}, np.array(scale, np.float32))


def denoise(
    velocity: Partial,
    x: Latents,
    grid: TimeGrid,
    *,
    solver: str,
    keys: Key[Array, " B"],
    memory: Any = None,
    where: Sharding | None = None,
    progress: Callable[[int], Any] | None = None,
) -> Generator[None, None, Latents]:
    """Returns the latents at the end of `grid`, float32 [B, T, h, w, C], and yields whenever the
    device has got one row more to compute.

    solver: its name. keys: one per sample, for grids that noise their conditions. memory: what
    `velocity` carries from row to row. where: as in `sample_steps`. progress: called with 1 after
    each row, when the next one is under way, so that the device does not wait for who is told.
    """
    before, latents, how = None, x, {"keys": keys, "memory": memory, "where": where}
    for latents in sample_steps(velocity, x, grid, make_solver(solver), **how):
        if progress is not None and before is not None:
            jax.block_until_ready(before)
            progress(1)
        before = latents
        yield
    if progress is not None:
        jax.block_until_ready(latents)
        progress(1)
    return latents


def finished(rows: Generator[None, None, T]) -> T:
    """Returns what `rows` returns in the end."""
    while True:
        try:
            next(rows)
        except StopIteration as end:
            return end.value


def step_cache_embedding(graphdef: Any, params: Params) -> Embed:
    """Returns what a step cache judges by: the embeddings of times and frame rates."""
    return functools.partial(compiled_call, Method(graphdef, "embed_time"), params)


def decode_chunk(
    graphdef: Any, params: Params, latents: Latents, cache: Any
) -> tuple[UInt8[Array, "B F P Q 3"], Float[Array, "B F P Q 3"], Any]:
    """Returns the next frames as bytes and as numbers in [-1, 1], and the cache after them."""
    vae = nnx.merge(graphdef, params)
    video, cache = vae.decode_chunk(vae.denormalize(latents), cache)
    return to_uint8(video), video, cache


def to_uint8(video: Float[Array, "B T H W 3"]) -> UInt8[Array, "B T H W 3"]:
    """Returns pixels in [-1, 1] as bytes, rounded to nearest even as diffusers' PIL output is."""
    unit = jnp.clip(video.astype(jnp.float32) * 0.5 + 0.5, 0.0, 1.0)
    return jnp.round(unit * 255.0).astype(jnp.uint8)


def call(method: Method, params: Params, *args: Any) -> Any:
    return method(params, *args)


compiled_call = Program(call, static=[0])
compiled_reading = Program(reading, static=[0])
compiled_mix = Program(mix)
compiled_keys = Program(streams, static=[0])
compiled_noise = Program(noise, static=[0])
compiled_decode = Program(decode_chunk, static=[0], donate=[3])
