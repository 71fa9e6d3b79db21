"""Films of a block-causal model, block after block, with finished blocks in a KV cache.

A block is one run of the sampler: same rows, same solver, with a velocity function that reads the
cache. Memory, cost and programs are the same for every block, however long the film.

What a film needs to go on is `CausalState`: the cache itself and how many frames there are. Keys
and values of deep layers hang on frames long out of the window, so latents of the window alone
would rebuild others, and the film would not be the same; the cache makes it exact. It takes
2 * layers * slots * tokens of a frame * width numbers, twice that under guidance: megabytes for the
miniature, gigabytes for the released sizes.
"""

import dataclasses
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.tree_util import Partial
from jaxtyping import Array, Float, Int, Key

from skyreels_jax.core.errors import UserError
from skyreels_jax.core.rng import stream
from skyreels_jax.core.types import Latents, Params, Time
from skyreels_jax.diffusion.flow import TIMESTEPS
from skyreels_jax.diffusion.guidance import conditional, guided
from skyreels_jax.diffusion.plan import Plan, time_grid
from skyreels_jax.diffusion.sample import condition_noise, place, sample_steps
from skyreels_jax.diffusion.solvers import UniPC
from skyreels_jax.models.dit.blocks import KV
from skyreels_jax.models.dit.kv_cache import (
    CacheWindow,
    TextKV,
    block_velocity,
    empty_cache,
    place_block,
    text_kv,
    write,
)
from skyreels_jax.models.dit.modeling import SkyReelsV2Transformer3D

Condition = Mapping[str, Array]  # context [B, S, E] and context_weight [B, S]


@dataclasses.dataclass(frozen=True, kw_only=True)
class CausalSettings:
    """How blocks are made; `window` says what they see of those before (`cache_window`).

    Guidance at 1 or below is no guidance. addnoise_condition: finished frames are kept with this
    much noise (of 1000), drawn once, and the model is told so; the frames themselves stay clean.
    """

    window: CacheWindow
    inference_steps: int
    shift: float
    guidance_scale: float
    addnoise_condition: float = 0.0

    def plan(self, prefix: int = 0) -> Plan:
        """Returns the plan of a block whose first `prefix` frames are given."""
        return Plan(
            latent_frames=self.window.block,
            inference_steps=self.inference_steps,
            shift=self.shift,
            prefix=prefix,
            addnoise_condition=self.addnoise_condition,
        )


class CausalState(NamedTuple):
    """What a film needs to go on: how many latent frames it has, and their cache."""

    frames: int
    key: np.ndarray
    value: np.ndarray


@dataclasses.dataclass(frozen=True)
class CachedModel:
    """The transformer on one block as a function of its parameters and of all that it reads."""

    graphdef: Any
    window: CacheWindow

    def run(self, known: Mapping[str, Any], x: Latents, timestep: Time) -> tuple[Latents, KV]:
        model = nnx.merge(self.graphdef, known["params"])
        told = {name: known[name] for name in ("text", "cache", "place", "fps")}
        return block_velocity(model, x, timestep, window=self.window, **told)

    def __call__(self, known: Mapping[str, Any], x: Latents, timestep: Time) -> Latents:
        return self.run(known, x, timestep)[0]


class CausalFilm(Iterator[Latents]):
    """Films without end, one for each seed, side by side: yields the latents of block after block.

    transformer: of a causal model.  size: height, width and channels of the latents.
    scene: says what the block that starts at this latent frame shows (a prompt, a mixture of two);
    encode: turns that into the conditions of all films, and their negative ones. It is called only
    when the scene changes, and only then are keys and values of text computed.
    fps: what models with `inject_sample_info` are told, [B].
    given: clean latents that the films start from (an image, the end of a video); not yielded.
    state: of an earlier film with the same arguments, which then goes on exactly.
    Every block draws its noise from its film's seed and its own number.
    Raises `UserError` for a state that does not fit.
    """

    def __init__(
        self,
        transformer: SkyReelsV2Transformer3D,
        settings: CausalSettings,
        *,
        seeds: Sequence[int],
        size: tuple[int, int, int],
        scene: Callable[[int], Hashable],
        encode: Callable[[Any], tuple[Condition, Condition]],
        fps: Int[Array, " B"] | None = None,
        given: Float[Array | np.ndarray, "B P H W C"] | None = None,
        state: CausalState | None = None,
        progress: Callable[[int], Any] | None = None,
    ):
        graphdef, params = nnx.split(transformer)
        self._model = CachedModel(graphdef, settings.window)
        self._params = params
        self._config, self._settings = transformer.config, settings
        self._seeds, self._size = list(seeds), size
        self._scene, self._encode, self._progress = scene, encode, progress
        self._fps = None if fps is None else jnp.concatenate([fps] * self._sides)
        self._given = np.zeros((len(self._seeds), 0, *size), np.float32) if given is None else given
        self._text: tuple[Hashable, TextKV] | None = None
        self.cache = empty_cache(
            self._config,
            settings.window,
            batch=self._sides * len(self._seeds),
            size=size[:2],
            dtype=transformer.blocks.attn1.k.kernel[...].dtype,
        )
        self.frames = 0
        if state is not None:
            self._restore(state)

    def __next__(self) -> Latents:
        """Returns the next block, float32 [B, T, H, W, C], without its given frames."""
        block = self._settings.window.block
        while True:
            given = self._given[:, self.frames : self.frames + block]
            known = self._known()
            x = place(self._noise(), prefix=given)
            if given.shape[1] < block:
                x = self._denoise(known, x, prefix=given.shape[1])
            self._remember(known, x)
            if given.shape[1] < block:
                return x[:, given.shape[1] :]

    def state(self) -> CausalState:
        """Returns what `CausalFilm(state=...)` goes on from, on the host."""
        return CausalState(self.frames, *(np.array(leaf) for leaf in self.cache))

    @property
    def _sides(self) -> int:
        """Runs of the model for each film: two under guidance, the negative one first."""
        return 2 if self._settings.guidance_scale > 1 else 1

    def _restore(self, state: CausalState) -> None:
        if state.frames < 0 or state.frames % self._settings.window.block:
            raise UserError(f"the state holds {state.frames} latent frames, not whole blocks")
        cache = KV(jnp.array(state.key), jnp.array(state.value))
        for new, own in zip(cache, self.cache, strict=True):
            if (new.shape, new.dtype) != (own.shape, own.dtype):
                raise UserError(
                    f"the state holds a cache of {new.dtype} {list(new.shape)}, this film needs "
                    f"{own.dtype} {list(own.shape)}: resume with the same model and settings"
                )
        self.frames, self.cache = state.frames, cache

    def _known(self) -> dict[str, Any]:
        """Returns everything that the model reads besides latents and times."""
        scene = self._scene(self.frames)
        if self._text is None or self._text[0] != scene:
            cond, null = self._encode(scene)
            sides = [null, cond] if self._sides == 2 else [cond]
            both = {key: jnp.concatenate([side[key] for side in sides]) for key in cond}
            text = compiled_text_kv(self._model, self._params, both)
            self._text = scene, text
        head_dim = self._config.attention_head_dim
        here = place_block(self._settings.window, self.frames, head_dim=head_dim)
        return {
            "params": self._params,
            "text": self._text[1],
            "cache": self.cache,
            "place": jax.device_put(here),
            "fps": self._fps,
        }

    def _noise(self) -> Latents:
        shape = (self._settings.window.block, *self._size)
        keys = self._keys("noise", self.frames)
        return jax.vmap(lambda key: jax.random.normal(key, shape, jnp.float32))(keys)

    def _keys(self, name: str, step: int = 0) -> Key[Array, " B"]:
        return jnp.stack([stream(seed, name, step) for seed in self._seeds])

    def _denoise(self, known: Mapping[str, Any], x: Latents, *, prefix: int) -> Latents:
        model = Partial(self._model, known)
        if self._sides == 2:
            velocity = guided(model, {}, {}, self._settings.guidance_scale)
        else:
            velocity = conditional(model, {})
        grid, latents = time_grid(self._settings.plan(prefix)), x
        for latents in sample_steps(velocity, x, grid, UniPC(), keys=self._keys("prefix")):
            if self._progress is not None:
                jax.block_until_ready(latents)
                self._progress(1)
        return latents

    def _remember(self, known: Mapping[str, Any], x: Latents) -> None:
        """Runs the finished block once more, clean, and keeps what it gives."""
        self.cache = compiled_remember(
            self._model,
            known["cache"],
            {name: value for name, value in known.items() if name != "cache"},
            x,
            jnp.float32(self._settings.addnoise_condition),
            self._keys("history", self.frames),
            sides=self._sides,
        )
        self.frames += self._settings.window.block


def encode_text(model: CachedModel, params: Params, condition: Condition) -> TextKV:
    return text_kv(nnx.merge(model.graphdef, params), **condition)


def remember(
    model: CachedModel,
    cache: KV,
    known: Mapping[str, Any],
    x: Latents,
    timestep: Float[Array, ""],
    keys: Key[Array, " B"],
    *,
    sides: int,
) -> KV:
    """Returns the cache with the block `x`, seen at `timestep`, written to its slot."""
    level = timestep / TIMESTEPS
    seen = (1 - level) * x + level * condition_noise(keys, 0, x.shape[1:])
    seen = jnp.concatenate([seen] * sides)
    times = jnp.full(seen.shape[:2], timestep)
    _, new = model.run({**known, "cache": cache}, seen, times)
    return write(cache, new, window=model.window, place=known["place"])


compiled_text_kv = jax.jit(encode_text, static_argnums=0)
compiled_remember = jax.jit(remember, static_argnames=("model", "sides"), donate_argnames="cache")
