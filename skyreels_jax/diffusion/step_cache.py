"""TeaCache: rows of the sampler that add the last residual of the blocks instead of running them.

Liu et al. 2024, "Timestep Embedding Tells: It's Time to Cache for Video Diffusion Model", as the
official SkyReels-V2 code runs it. The criterion is the change of the time embedding, which depends
on times and frame rate alone, never on the film: all rows that are to be computed are known before
the first one. They are data for the compiled step, which looks up its own row.
"""

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial
from jaxtyping import Array, Bool, Float, Int

from skyreels_jax.core.errors import UserError
from skyreels_jax.core.types import Latents, Time
from skyreels_jax.diffusion.grids import TimeGrid

Rows = Bool[np.ndarray, " rows"]
PADDED = 1024  # plans are padded to a multiple of this: other step counts compile nothing


class Memory(NamedTuple):
    """What a cached velocity function carries from row to row.

    residuals: what the blocks added when they last ran, for each call of the model in a row. One
    call on conditional and unconditional samples side by side has one residual, a part for each.
    """

    row: Int[Array, ""]
    residuals: tuple[Float[Array, "B L D"], ...]


def seen_times(grid: TimeGrid) -> Float[np.ndarray, "rows #T"]:
    """Returns the times that the model is told in each row."""
    if grid.window is None:
        return grid.timestep
    return np.take_along_axis(grid.timestep, grid.window, axis=1)


def check_times(grid: TimeGrid) -> None:
    """Raises `UserError` when frames that the model sees together are at different times."""
    times = seen_times(grid)
    if (times != times[:, :1]).any():
        raise UserError(
            "teacache is refused for diffusion forcing: where frames are at different times its "
            "criterion sees only their mean, and those that move most get a stale residual; "
            "legal: no teacache, or force_teacache"
        )


def always_computed(grid: TimeGrid, *, use_ret_steps: bool) -> Rows:
    """Returns the rows that run the blocks whatever the criterion says.

    The first five with "retention steps", else the first and the last; and those before which the
    window of frames moves, for a residual belongs to its frames.
    """
    number = np.arange(len(grid.timestep))
    first, last = (5, 0) if use_ret_steps else (1, 1)
    always = (number < first) | (number >= len(number) - last)
    if grid.window is not None:
        always[1:] |= (grid.window[1:] != grid.window[:-1]).any(axis=1)
    return always


def computed_rows(
    embedding: Float[np.ndarray, "rows T D"],
    *,
    coefficients: Sequence[float],
    threshold: float,
    always: Rows,
) -> Rows:
    """Returns the rows in which the blocks run.

    embedding: of each row's times, by the model that samples. Its relative change
    mean|m_i - m_(i-1)| / mean|m_(i-1)| goes through the polynomial with `coefficients` (highest
    power first), and the results are summed: rows reuse the residual while the sum is below
    `threshold`; a computed row starts a new sum. Threshold 0 computes every row, also where the
    polynomial is negative.
    """
    if threshold <= 0:
        return np.ones(len(embedding), bool)
    embedding = np.asarray(embedding, np.float64)
    change = np.abs(np.diff(embedding, axis=0)).mean(axis=(1, 2))
    change = np.polyval(coefficients, change / np.abs(embedding[:-1]).mean(axis=(1, 2)))
    computed, total = np.array(always, bool), 0.0
    for row in range(1, len(computed)):
        total = 0.0 if computed[row] else total + change[row - 1]
        if not computed[row] and total >= threshold:
            computed[row], total = True, 0.0
    return computed


def with_step_cache(
    velocity_fn: Partial, computed: Rows, x: Latents, timestep: Time
) -> tuple[Partial, Memory | None]:
    """Returns `velocity_fn` with a cache, and the memory to start sampling with.

    velocity_fn: of a model (its first argument, as `guidance` makes them) that takes `run_blocks`:
    a callable `(blocks, tokens) -> tokens` in place of `blocks(tokens)`.
    x, timestep: what the function will be called with; only their shapes are read.
    Where every row is computed there is nothing to cache: the function itself comes back, and None.
    """
    if computed.all():
        return velocity_fn, None
    if not computed[0]:
        raise ValueError("the first row has no residual to reuse")
    shapes = []

    def run_blocks(blocks: Callable, tokens: Array) -> Array:
        shapes.append((tokens.shape, tokens.dtype))
        return tokens

    jax.eval_shape(_run_with(velocity_fn, run_blocks), x, timestep)
    plan = np.ones(-(-len(computed) // PADDED) * PADDED, bool)
    plan[: len(computed)] = computed
    memory = Memory(jnp.zeros((), jnp.int32), tuple(jnp.zeros(*shape) for shape in shapes))
    return Partial(cached_velocity, velocity_fn, plan), memory


def cached_velocity(
    velocity_fn: Partial, plan: Bool[Array, " rows"], x: Latents, timestep: Time, memory: Memory
) -> tuple[Latents, Memory]:
    """Returns the velocity at row `memory.row`, and the memory for the next one."""
    residuals = []

    def run_blocks(blocks: Callable, tokens: Array) -> Array:
        def compute(tokens, residual):
            out = blocks(tokens)
            return out, out - tokens

        def reuse(tokens, residual):
            return tokens + residual, residual

        old = memory.residuals[len(residuals)]
        out, new = jax.lax.cond(plan[memory.row], compute, reuse, tokens, old)
        residuals.append(new)
        return out

    v = _run_with(velocity_fn, run_blocks)(x, timestep)
    return v, Memory(memory.row + 1, tuple(residuals))


def _run_with(velocity_fn: Partial, run_blocks: Callable) -> Callable:
    model, *others = velocity_fn.args
    model = functools.partial(model, run_blocks=run_blocks)
    return functools.partial(velocity_fn.func, model, *others, **velocity_fn.keywords)
