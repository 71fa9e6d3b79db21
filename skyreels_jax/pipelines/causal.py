"""Films of a block-causal model, block after block, with finished blocks in a KV cache.

A window is a block: one run of the sampler, same rows, same solver, with a velocity function that
reads the cache, and one run more that writes it. Memory, cost and programs are the same for every
block, however long the film.
"""

import dataclasses
from collections.abc import Callable, Generator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.tree_util import Partial
from jaxtyping import Array, Float, Int, Key

from skyreels_jax.core.programs import Program
from skyreels_jax.core.types import Latents, Time
from skyreels_jax.diffusion.flow import TIMESTEPS
from skyreels_jax.diffusion.plan import time_grid
from skyreels_jax.diffusion.sample import condition_noise
from skyreels_jax.models.dit.blocks import KV
from skyreels_jax.models.dit.kv_cache import (
    CacheWindow,
    block_velocity,
    cache_window,
    empty_cache,
    place_block,
    write,
)
from skyreels_jax.models.dit.modeling import SkyReelsV2Transformer3D
from skyreels_jax.nn.whole import taken_apart
from skyreels_jax.pipelines import generate as parts
from skyreels_jax.pipelines.lengths import Window
from skyreels_jax.pipelines.validate import Request


@dataclasses.dataclass(frozen=True)
class CachedModel:
    """The transformer on one block as a function of its parameters and of all that it reads."""

    graphdef: Any
    window: CacheWindow

    def run(self, known: Mapping[str, Any], x: Latents, timestep: Time) -> tuple[Latents, KV]:
        model = nnx.merge(self.graphdef, known["params"])
        told = {name: value for name, value in known.items() if name != "params"}
        return block_velocity(model, x, timestep, window=self.window, **told)

    def __call__(self, known: Mapping[str, Any], x: Latents, timestep: Time) -> Latents:
        return self.run(known, x, timestep)[0]


class CachedBlocks:
    """A `stream.Maker` whose memory is a KV cache: the model sees a block, and what is kept.

    transformer: of a causal model. window: what a block sees of those before (`cache_window`).
    """

    def __init__(
        self,
        transformer: SkyReelsV2Transformer3D,
        window: CacheWindow,
        *,
        guidance_scale: float,
        solver: str,
        progress: Callable[[int], Any] | None = None,
    ):
        graphdef, self._params = taken_apart(transformer)
        self._model = CachedModel(graphdef, window)
        self._config, self._window = transformer.config, window
        self._dtype = transformer.blocks.attn1.k.kernel[...].dtype.name
        self._scale, self._solver, self._progress = guidance_scale, solver, progress
        self._sides = 2 if parts.is_guided(guidance_scale) else 1
        self._known = parts.Readings(graphdef, self._params, scale=guidance_scale)

    @classmethod
    def of(
        cls,
        transformer: SkyReelsV2Transformer3D,
        request: Request,
        *,
        progress: Callable[[int], Any] | None = None,
    ) -> "CachedBlocks":
        """Returns the maker of a request's films; `UserError` for a model that keeps no blocks."""
        film = request.film
        window = cache_window(transformer.config, rolling=film.rolling, sinks=film.sink_frames)
        how = {"guidance_scale": request.guidance_scale, "solver": request.solver}
        return cls(transformer, window, progress=progress, **how)

    def start(self, count: int, size: tuple[int, int]) -> KV:
        """Returns an empty cache."""
        return compiled_empty(self._config, self._window, self._sides * count, size, self._dtype)

    def __call__(
        self, window: Window, x: Latents, told: parts.Told, *, keys: Key[Array, " B"], memory: KV
    ) -> Generator[None, None, tuple[Latents, KV]]:
        """Returns the block of `window` (see `Maker`), behind those that are given whole.

        Where the plan adds noise to conditions, finished blocks are kept with that, drawn once, and
        the model is told so; the latents themselves stay clean.
        """
        plan, size, blocks = window.plan, self._window.block, []
        level, shared = np.float32(plan.addnoise_condition), self._known(told)
        for start in range(0, plan.latent_frames, size):
            here = slice(start, start + size)
            block, known = x[:, here], shared | {"place": self._place(window.start + start)}
            if start + size > plan.prefix:
                seen = Partial(self._model, known | {"cache": memory})
                block = yield from parts.denoise(
                    parts.steered(seen, self._scale),
                    block,
                    jax.tree.map(lambda column, here=here: column[:, here], time_grid(plan)),
                    solver=self._solver,
                    keys=keys,
                    progress=self._progress,
                )
            else:
                yield  # `memory` is not destroyed before
            number = np.int32(plan.rows + start // size)  # no row of the sampler has it
            memory = compiled_remember(
                self._model, self._sides, memory, known, block, level, keys, number
            )
            blocks.append(block)
        return jnp.concatenate(blocks, axis=1), memory

    def _place(self, frame: int) -> Any:
        head_dim = self._config.attention_head_dim
        return jax.device_put(place_block(self._window, frame, head_dim=head_dim))


def remember(
    model: CachedModel,
    sides: int,
    cache: KV,
    known: Mapping[str, Any],
    x: Latents,
    timestep: Float[Array, ""],
    keys: Key[Array, " B"],
    number: Int[Array, ""],
) -> KV:
    """Returns the cache with the block `x`, seen at `timestep`, written to its slot.

    keys, number: of the noise on it.
    """
    level = timestep / TIMESTEPS
    seen = (1 - level) * x + level * condition_noise(keys, number, x.shape[1:])
    seen = jnp.concatenate([seen] * sides)
    times = jnp.full(seen.shape[:2], timestep)
    _, new = model.run({**known, "cache": cache}, seen, times)
    return write(cache, new, place=known["place"])


compiled_empty = Program(empty_cache, static=range(5))
compiled_remember = Program(remember, static=[0, 1], donate=[2])
