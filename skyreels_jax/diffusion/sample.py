"""The sampler: a velocity function, a time grid and a solver make latents out of noise.

There is one step, `advance`, and two ways to repeat it. `sample` is `lax.scan`: pure, part of
whatever is being compiled or differentiated. `sample_steps` is for people who wait: the same step
compiled once and called from the host row by row, so that a progress bar, a preview or Ctrl-C can
come between. It costs one dispatch per row (well under a millisecond), keeps the persistent
compilation cache usable (programs with host callbacks are never cached), and the solver's state is
donated, so nothing is copied.

Every task is this sampler with another grid (see `plan`) and other frames given in its first
latents (`place`): text, first image, continuation of a film, first and last image.
"""

from collections.abc import Iterator
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Sharding
from jax.tree_util import Partial
from jaxtyping import Array, Float, Key

from skyreels_jax.core.programs import Program
from skyreels_jax.core.rng import Step, stream
from skyreels_jax.core.types import Latents, Time
from skyreels_jax.diffusion.grids import TimeGrid
from skyreels_jax.diffusion.guidance import Forgetful, Remembering, VelocityFn
from skyreels_jax.diffusion.solvers.base import Solver, over_latents

Noise = Float[Array | np.ndarray, "B T H W C"]


def place(
    noise: Noise,
    prefix: Float[Array | np.ndarray, "B P H W C"] | None = None,
    suffix: Float[Array | np.ndarray, "B S H W C"] | None = None,
) -> Latents:
    """Returns `noise`, float32, with its first and last frames replaced by clean latents."""
    x = jnp.asarray(noise, jnp.float32)
    if prefix is not None:
        x = x.at[:, : prefix.shape[1]].set(prefix)
    if suffix is not None:
        x = x.at[:, x.shape[1] - suffix.shape[1] :].set(suffix)
    return x


def condition_noise(
    keys: Key[Array, " B"], number: Step, shape: tuple[int, ...]
) -> Float[Array, "B T H W C"]:
    """Returns the unit noise of row `number`, `shape` [T, H, W, C] from each sample's own key."""

    def draw(key):
        return jax.random.normal(stream(key, "condition", number), shape, jnp.float32)

    return jax.vmap(draw)(keys)


def evaluate(
    velocity_fn: VelocityFn, x: Latents, timestep: Time, memory: Any
) -> tuple[Latents, Any]:
    """Returns the velocity, float32, and the memory after it (None: the function has none)."""
    if memory is None:
        return cast(Forgetful, velocity_fn)(x, timestep).astype(jnp.float32), None
    v, memory = cast(Remembering, velocity_fn)(x, timestep, memory)
    return v.astype(jnp.float32), memory


def advance(
    velocity_fn: VelocityFn,
    state: Any,
    x: Latents,
    row: TimeGrid,
    *,
    solver: Solver,
    number: Step = 0,
    keys: Key[Array, " B"] | None = None,
) -> tuple[Any, Latents]:
    """Returns state and latents after `row`, the grid's row `number`.

    state: (memory of the velocity function or None, state of the solver).
    `row.noised` frames are noised for the model alone, with `keys`; `row.window` frames are all
    that it sees. Raises `ValueError` for noised frames without keys.
    """
    (memory, state), seen, timestep = state, x, jnp.asarray(row.timestep)
    if row.noised is not None:
        if keys is None:
            raise ValueError("this grid noises its conditions: pass keys, one per sample")
        level = over_latents(row.noised)
        seen = (1 - level) * x + level * condition_noise(keys, number, x.shape[1:])
    if row.window is not None:
        seen, timestep = seen[:, row.window], timestep[row.window]
    timestep = jnp.broadcast_to(timestep[None], (x.shape[0], timestep.shape[0]))
    v, memory = evaluate(velocity_fn, seen, timestep, memory)
    if row.window is not None:
        v = jnp.zeros_like(x).at[:, row.window].set(v)  # the grid moves no frame that is unseen
    state, x = solver.step(state, x, v, row)
    return (memory, state), x


def sample(
    velocity_fn: VelocityFn,
    noise: Noise,
    grid: TimeGrid,
    solver: Solver,
    *,
    keys: Key[Array, " B"] | None = None,
    memory: Any = None,
) -> Latents:
    """Returns the latents at the end of `grid`, float32.

    velocity_fn: any callable `(x, timestep [B, #T]) -> v`; it is traced once.
    noise: [B, T, H, W, C], the latents before the first row; frames that the grid never updates
    (a clean prefix, say) come back as they went in.
    keys: one per sample, for grids that noise their conditions.
    memory: what a velocity function that carries something from row to row starts with; it is then
    called as `(x, timestep, memory) -> (v, memory)`.
    """
    x = jnp.asarray(noise, jnp.float32)

    def body(carry, numbered):
        (state, x), (number, row) = carry, numbered
        return advance(velocity_fn, state, x, row, solver=solver, number=number, keys=keys), None

    start = (memory, solver.init(x)), x
    (_, x), _ = jax.lax.scan(body, start, (jnp.arange(len(grid.timestep)), grid))
    return x


def sample_steps(
    velocity_fn: Partial,
    noise: Noise,
    grid: TimeGrid,
    solver: Solver,
    *,
    keys: Key[Array, " B"] | None = None,
    memory: Any = None,
    where: Sharding | None = None,
) -> Iterator[Latents]:
    """Yields the latents after each row; the last ones equal those of `sample`.

    velocity_fn: a `jax.tree_util.Partial` (see guidance), because its arrays are arguments of the
    compiled step. The latents are yielded while still being computed; whoever shows progress calls
    `block_until_ready` on them. `memory` is destroyed.
    where: latents and the solver's state are; None: on the default device. If the first step did
    not find them where it leaves them, it would be another program than all others.
    """
    x = jax.device_put(jnp.asarray(noise, jnp.float32), where)
    state = memory, jax.device_put(compiled_init(solver, x), where)
    for index in range(len(grid.timestep)):
        row = jax.tree.map(lambda column, index=index: column[index], grid)
        state, x = compiled_advance(solver, velocity_fn, state, x, row, np.int32(index), keys)
        yield x


def _init(solver: Solver, x: Latents) -> Any:
    return solver.init(x)


def _advance(
    solver: Solver,
    velocity_fn: Partial,
    state: Any,
    x: Latents,
    row: TimeGrid,
    number: Step,
    keys: Key[Array, " B"] | None,
) -> tuple[Any, Latents]:
    return advance(velocity_fn, state, x, row, solver=solver, number=number, keys=keys)


compiled_place = Program(place)
compiled_init = Program(_init, static=[0])
compiled_advance = Program(_advance, static=[0], donate=[2])
