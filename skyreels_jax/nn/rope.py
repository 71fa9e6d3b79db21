"""Rotary embedding of (time, height, width), and the sinusoidal embedding of diffusion times."""

import math

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from skyreels_jax.core.errors import UserError

Turns = Float[Array | np.ndarray, "_ _"]  # [P, r]: cosines or sines of positions along an axis


def axis_widths(head_dim: int) -> tuple[int, int, int]:
    """Returns how many channels of a head turn with time (the rest), height and width (a third)."""
    space = 2 * (head_dim // 6)
    return head_dim - 2 * space, space, space


def turns(
    position: Int[np.ndarray, " P"], width: int, *, theta: float = 10000.0
) -> tuple[Float[np.ndarray, "P r"], Float[np.ndarray, "P r"]]:
    """Returns (cos, sin), float32 [P, width / 2], of position times theta^(-2 i / width).

    The angles are float64 on the host, so positions of any size are as exact as small ones.
    """
    frequency = theta ** (-np.arange(0, width, 2, dtype=np.float64) / max(width, 1))
    angle = np.outer(position, frequency)
    return np.cos(angle).astype(np.float32), np.sin(angle).astype(np.float32)


def spread(*axes: tuple[Turns, Turns]) -> tuple[Float[Array, "T S R"], Float[Array, "T S R"]]:
    """Returns (cos, sin), [T, S, R], of a grid's tokens, by frame, from those of each axis."""
    grid = tuple(len(cos) for cos, _ in axes)

    def over_grid(tables: tuple[Turns, ...]) -> Array:
        parts = []
        for axis, table in enumerate(tables):
            shape = [1] * len(grid) + [table.shape[1]]
            shape[axis] = grid[axis]
            parts.append(jnp.broadcast_to(table.reshape(shape), (*grid, table.shape[1])))
        return jnp.concatenate(parts, axis=-1).reshape(grid[0], math.prod(grid[1:]), -1)

    cos, sin = zip(*axes, strict=True)
    return over_grid(cos), over_grid(sin)


def rope_table(
    grid: tuple[int, int, int], *, head_dim: int, max_seq_len: int, theta: float = 10000.0
) -> tuple[Float[Array, "T S R"], Float[Array, "T S R"]]:
    """Returns (cos, sin), float32 [T, H * W, head_dim / 2], of tokens by time, height, width.

    Angles are computed in float64 per axis; only the broadcast to the grid is left to the device.
    Raises `UserError` when an axis is longer than `max_seq_len`.
    """
    if max(grid) > max_seq_len:
        raise UserError(
            f"a token grid of {grid} (time, height, width) does not fit: each axis may have at "
            f"most rope_max_seq_len = {max_seq_len} positions"
        )
    sizes = zip(grid, axis_widths(head_dim), strict=True)
    return spread(*(turns(np.arange(n), width, theta=theta) for n, width in sizes))


def apply_rope(
    x: Float[Array, "B *L N K"], cos: Float[Array, "*L R"], sin: Float[Array, "*L R"]
) -> Float[Array, "B *L N K"]:
    """Turns each pair of channels (2r, 2r + 1) by its angle; float32 inside, x's dtype out."""
    pairs = x.astype(jnp.float32).reshape(*x.shape[:-1], -1, 2)
    even, odd = pairs[..., 0], pairs[..., 1]
    cos, sin = cos[None, ..., None, :], sin[None, ..., None, :]
    turned = jnp.stack([even * cos - odd * sin, even * sin + odd * cos], axis=-1)
    return turned.reshape(x.shape).astype(x.dtype)


def timestep_embedding(
    timestep: Float[Array, "*rows"], width: int, *, theta: float = 10000.0
) -> Float[Array, "*rows D"]:
    """Returns [cos(t w), sin(t w)] with w = theta^(-i / (width / 2)), accurate to float32.

    A float32 product of t near 1000 with w is off by 3e-5; so t and w are split such that the
    large part of the product is exact, and the parts are joined by the addition theorem.
    """
    frequency = theta ** (-np.arange(width // 2, dtype=np.float64) / (width / 2))
    mantissa, exponent = np.frexp(frequency)
    coarse = np.ldexp(np.round(mantissa * 2**12), exponent - 12)  # 12 bits times 12 bits: exact
    row = (1,) * timestep.ndim + (-1,)
    whole = jnp.floor(timestep.astype(jnp.float32))[..., None]
    part = timestep.astype(jnp.float32)[..., None] - whole
    large = whole * coarse.astype(np.float32).reshape(row)
    small = whole * (frequency - coarse).astype(np.float32).reshape(row)
    small = small + part * frequency.astype(np.float32).reshape(row)
    cos = jnp.cos(large) * jnp.cos(small) - jnp.sin(large) * jnp.sin(small)
    sin = jnp.sin(large) * jnp.cos(small) + jnp.cos(large) * jnp.sin(small)
    return jnp.concatenate([cos, sin], axis=-1)
