"""The sampler: a velocity function, a time grid and a solver make latents out of noise.

There is one step, `advance`, and two ways to repeat it. `sample` is `lax.scan`: pure, part of
whatever is being compiled or differentiated. `sample_steps` is for people who wait: the same step
compiled once and called from the host row by row, so that a progress bar, a preview or Ctrl-C can
come between. It costs one dispatch per row (well under a millisecond), keeps the persistent
compilation cache usable (programs with host callbacks are never cached), and the solver's state is
donated, so nothing is copied.
"""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial
from jaxtyping import Array, Float

from skyreels_jax.core.types import Latents
from skyreels_jax.diffusion.grids import TimeGrid
from skyreels_jax.diffusion.guidance import VelocityFn
from skyreels_jax.diffusion.solvers.base import Solver

Noise = Float[Array | np.ndarray, "B T H W C"]


def advance(
    velocity_fn: VelocityFn, state: Any, x: Latents, row: TimeGrid, *, solver: Solver
) -> tuple[Any, Latents]:
    """Returns the solver's state and the latents after one row of the grid."""
    timestep = jnp.broadcast_to(row.timestep, (x.shape[0], row.timestep.shape[-1]))
    v = velocity_fn(x, timestep).astype(jnp.float32)
    return solver.step(state, x, v, row)


def sample(velocity_fn: VelocityFn, noise: Noise, grid: TimeGrid, solver: Solver) -> Latents:
    """Returns the latents at the end of `grid`, float32.

    velocity_fn: any callable `(x, timestep [B, #T]) -> v`; it is traced once.
    noise: [B, T, H, W, C], the latents before the first row; frames that the grid never updates
    (a clean prefix, say) come back as they went in.
    """
    x = jnp.asarray(noise, jnp.float32)

    def body(carry, row):
        state, x = carry
        return advance(velocity_fn, state, x, row, solver=solver), None

    (_, x), _ = jax.lax.scan(body, (solver.init(x), x), grid)
    return x


def sample_steps(
    velocity_fn: Partial, noise: Noise, grid: TimeGrid, solver: Solver
) -> Iterator[Latents]:
    """Yields the latents after each row; the last ones equal those of `sample`.

    velocity_fn: a `jax.tree_util.Partial` (see guidance), because its arrays are arguments of the
    compiled step. The latents are yielded while still being computed; whoever shows progress calls
    `block_until_ready` on them.
    """
    x = jnp.asarray(noise, jnp.float32)
    state = solver.init(x)
    for index in range(len(grid.timestep)):
        row = jax.tree.map(lambda column, index=index: column[index], grid)
        state, x = compiled_advance(velocity_fn, state, x, row, solver=solver)
        yield x


compiled_advance = jax.jit(advance, static_argnames="solver", donate_argnames="state")
