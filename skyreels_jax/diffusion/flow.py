"""Rectified flow: x_s = (1 - s) data + s noise, with velocity v = dx/ds = noise - data.

sigma `s` is in [0, 1], 0 clean and 1 pure noise; the network sees timestep = 1000 s.
A sigma of shape [B, 1] is one noise level per clip, [B, T] one per latent frame.
"""

from typing import Any, TypeVar

import numpy as np
from jaxtyping import Array, Float

from skyreels_jax.core.types import Latents, Time

TIMESTEPS = 1000.0
Sigma = TypeVar("Sigma", Array, np.ndarray)  # numpy in grids, jax in objectives


def per_frame(time: Float[Array, "B #T"]) -> Float[Array, "B #T 1 1 1"]:
    """Returns times with trailing axes that broadcast over latents."""
    return time[:, :, None, None, None]


def interpolate(data: Latents, noise: Latents, sigma: Float[Array, "B #T"]) -> Latents:
    """Returns the point at `sigma` of the straight path from data (0) to noise (1)."""
    sigma = per_frame(sigma)
    return (1 - sigma) * data + sigma * noise


def velocity(data: Latents, noise: Latents) -> Latents:
    """Returns the velocity of the path, the network's target."""
    return noise - data


def timestep(sigma: Float[Array, "B #T"]) -> Time:
    """Returns the time as the network sees it, in [0, 1000]."""
    return TIMESTEPS * sigma


def shift_sigma(sigma: Sigma, shift: float | Float[Array, ""]) -> Sigma:
    """Returns shift s / (1 + (shift - 1) s): monotone, keeps 0 and 1, shift > 1 adds noise."""
    shifted: Any = shift * sigma / (1 + (shift - 1) * sigma)
    return shifted
