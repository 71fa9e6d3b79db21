"""Euler: one straight step along the velocity."""

import dataclasses

import jax.numpy as jnp

from skyreels_jax.core.types import Latents
from skyreels_jax.diffusion.grids import TimeGrid
from skyreels_jax.diffusion.solvers.base import over_latents


@dataclasses.dataclass(frozen=True, kw_only=True)
class Euler:
    """x + (sigma_next - sigma) v; first order, no history."""

    def init(self, x: Latents) -> tuple[()]:
        del x
        return ()

    def step(
        self, state: tuple[()], x: Latents, v: Latents, row: TimeGrid
    ) -> tuple[tuple[()], Latents]:
        moved = x + over_latents(row.sigma_next - row.sigma) * v
        return state, jnp.where(over_latents(row.update), moved, x)
