"""TeaCache as a request asks for it: from its settings to a velocity function that skips blocks."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial
from jaxtyping import Array, Int

from skyreels_jax.core.types import Latents
from skyreels_jax.diffusion.grids import TimeGrid
from skyreels_jax.diffusion.step_cache import (
    Memory,
    Rows,
    always_computed,
    check_times,
    computed_rows,
    seen_times,
    with_step_cache,
)
from skyreels_jax.models.dit.teacache import UNFITTED

Coefficients = Callable[..., tuple[float, ...]]  # (*, use_ret_steps) -> of the model's polynomial
# (times [rows, T], fps [rows] or None) -> time embedding and modulation, as `TextToVideo` has it
Embed = Callable[[Array, Int[Array, " rows"] | None], tuple[Array, Array]]


def unfitted(*, use_ret_steps: bool) -> tuple[float, ...]:
    """Returns the polynomial of models that none was fitted for: the change itself."""
    del use_ret_steps
    return UNFITTED


@dataclasses.dataclass(frozen=True, kw_only=True)
class TeaCache:
    """The settings of a cache: threshold 0 never skips, 0.1 to 0.3 are usual.

    coefficients: of the model's polynomial, highest power first (`models.dit.teacache`).
    use_ret_steps: judge by the blocks' modulation after five rows, not by the time embedding.
    force: also where it is refused, for diffusion forcing.
    """

    coefficients: tuple[float, ...]
    threshold: float
    use_ret_steps: bool
    force: bool = False

    def rows(self, grid: TimeGrid, embed: Embed, *, fps: Int[Array, "B"] | None = None) -> Rows:
        """Returns the rows of `grid` in which the blocks run.

        fps: what the model is told of each sample, if it is; all are told the same.
        Raises `UserError` for the grids of diffusion forcing.
        """
        if not self.force:
            check_times(grid)
        times = jnp.asarray(seen_times(grid))
        rates = None if fps is None else jnp.broadcast_to(fps[:1], times.shape[:1])
        time, modulation = embed(times, rates)
        embedding = modulation.reshape(*times.shape, -1) if self.use_ret_steps else time
        return computed_rows(
            np.asarray(embedding),
            coefficients=self.coefficients,
            threshold=self.threshold,
            always=always_computed(grid, use_ret_steps=self.use_ret_steps),
        )

    def wrap(
        self, velocity_fn: Partial, grid: TimeGrid, embed: Embed, x: Latents, **told: Any
    ) -> tuple[Partial, Memory | None]:
        """Returns `velocity_fn` with a cache for `grid`, and the memory to sample it with.

        x: the first latents. told: `fps`, as for `rows`.
        """
        times = seen_times(grid)
        x = x if grid.window is None else x[:, : grid.window.shape[1]]
        timestep = jnp.zeros((x.shape[0], times.shape[1]), jnp.float32)
        return with_step_cache(velocity_fn, self.rows(grid, embed, **told), x, timestep)
