"""The FoPP scheduler: times of a clip's latent frames that never fall from first to last frame.

Draw a frame f and its time at random; the rest is uniform over all nondecreasing paths of times
through that point. Source: SkyReels-V2 (arXiv 2504.13074), "Frame-oriented Probability
Propagation", after AR-Diffusion. Time 0 is the cleanest, so later frames are never cleaner.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from skyreels_jax.core.errors import UserError
from skyreels_jax.core.rng import stream
from skyreels_jax.core.types import PRNGKey


@functools.cache
def log_path_counts(frames: int, timesteps: int) -> Float[np.ndarray, "frames timesteps"]:
    """Returns at [i, m] the logarithm (float64) of the number of nondecreasing sequences of i + 1
    times that end at or before m.

    That is C(m + i + 1, i + 1), the sum over j <= m of the recursion E[i, j] = E[i, j - 1] +
    E[i - 1, j], E[0, j] = E[i, 0] = 1. Turned around both axes it counts the sequences of the
    frames i.. that begin at or after m. Logarithms, because 25 frames have 1e50 paths.
    Raises `UserError` for counts below 1.
    """
    if frames < 1 or timesteps < 1:
        raise UserError(
            f"FoPP needs at least one frame and one timestep, got {frames}, {timesteps}"
        )
    factor = np.arange(1, frames + 1)[:, None]
    return np.cumsum(np.log1p(np.arange(timesteps)[None] / factor), axis=0)


def draw(
    key: PRNGKey, *, clips: int, frames: int, timesteps: int = 1000, block: int = 1
) -> Int[Array, "clips frames"]:
    """Returns times in [0, timesteps); the `block` frames of a causal block share one.

    The last block may be shorter. Left of the drawn point P(t_i = k | t_i+1) is the share of k in
    the paths that end at or before t_i+1, right of it that in the paths that begin at or after
    t_i-1, both inverted by table: a uniform number times a count is an exponential one less in
    logarithms. Tables are rounded to float32: probabilities are right to 1e-5 of their value.
    """
    count = blocks(frames, block)
    ends = log_path_counts(count, timesteps).astype(np.float32)
    pivot = jax.random.randint(stream(key, "frame"), (clips,), 0, count)
    start = jax.random.randint(stream(key, "time"), (clips,), 0, timesteps)
    less = jax.random.exponential(stream(key, "paths"), (count, clips))

    def leftwards(time: Array, frame: tuple) -> tuple[Array, Array]:
        index, row, less = frame
        drawn = jnp.sum(row[None] < (row[time] - less)[:, None], axis=1)
        time = jnp.where(index < pivot, drawn, start)
        return time, time

    def rightwards(time: Array, frame: tuple) -> tuple[Array, Array]:
        index, row, less = frame
        drawn = jnp.sum(row[None] >= (row[time] - less)[:, None], axis=1) - 1
        time = jnp.where(index > pivot, drawn, start)
        return time, time

    index = jnp.arange(count)
    left = jax.lax.scan(leftwards, start, (index, jnp.asarray(ends), less), reverse=True)[1]
    begins = jnp.asarray(ends[::-1, ::-1])
    right = jax.lax.scan(rightwards, start, (index, begins, less))[1]
    times = jnp.where(index[:, None] < pivot[None], left, right)
    return _spread(times.T, frames=frames, block=block)


def draw_continuous(
    key: PRNGKey, *, clips: int, frames: int, block: int = 1
) -> Float[Array, "clips frames"]:
    """Returns times in [0, 1): the limit of `draw` for ever more timesteps, divided by their
    number.

    The drawn frame f has time u ~ U(0, 1); the frames left of it are f sorted uniform numbers below
    u, those right of it sorted ones above.
    """
    count = blocks(frames, block)
    pivot = jax.random.randint(stream(key, "frame"), (clips, 1), 0, count)
    time = jax.random.uniform(stream(key, "time"), (clips, 1))
    share = jax.random.uniform(stream(key, "paths"), (clips, count))
    index = jnp.arange(count)[None]
    below, above = time * share, time + (1 - time) * share
    times = jnp.where(index < pivot, below, jnp.where(index > pivot, above, time))
    return _spread(jnp.sort(times, axis=1), frames=frames, block=block)


def blocks(frames: int, block: int) -> int:
    """Returns how many causal blocks of `block` frames `frames` frames have; the last may be
    shorter. Raises `UserError` for a block below 1.
    """
    if block < 1:
        raise UserError(f"a causal block has at least one latent frame, got {block}")
    return -(-frames // block)


def _spread(times: Array, *, frames: int, block: int) -> Array:
    return jnp.repeat(times, block, axis=1)[:, :frames]
