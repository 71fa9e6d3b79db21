"""UniPC of order 2 (B(h) = e^h - 1, data prediction) for rectified flow.

Zhao et al. 2023, "UniPC: A Unified Predictor-Corrector Framework", in the form that diffusers'
`UniPCMultistepScheduler` (solver_order 2, "bh2", "flow_prediction", final sigma 0) and the
official `FlowUniPCMultistepScheduler` run. With alpha = 1 - sigma the exponential integrator's
first-order part is the straight line x_t = r x_s + (1 - r) m_s, r = sigma_t / sigma_s, with m the
predicted data. Higher orders add (1 - r) times a combination of differences of predictions.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from skyreels_jax.core.types import Latents
from skyreels_jax.diffusion.grids import TimeGrid
from skyreels_jax.diffusion.solvers.base import over_latents

PerFrame = Float[Array, " T"]
SERIES = 10  # terms; for |u| < 1 the first one left out is below 1e-8


class UniPCState(NamedTuple):
    """What each latent frame remembers of its last two steps."""

    steps: Int[Array, " T"]  # how many steps the frame has made
    sigma: PerFrame  # where its last step started
    sigma_before: PerFrame  # and the one before that
    x: Latents  # the corrected sample at `sigma`
    data: Latents  # the data predicted at `sigma`
    data_before: Latents  # and at `sigma_before`


@dataclasses.dataclass(frozen=True, kw_only=True)
class UniPC:
    """Each new velocity first corrects the step that led to it, then predicts the next one.

    The first step of a frame, and the one that ends at sigma 0, are of order 1.
    """

    def init(self, x: Latents) -> UniPCState:
        frames = x.shape[1]
        return UniPCState(
            steps=jnp.zeros(frames, jnp.int32),
            sigma=jnp.full(frames, 0.5, jnp.float32),
            sigma_before=jnp.full(frames, 0.5, jnp.float32),
            x=jnp.zeros_like(x),
            data=jnp.zeros_like(x),
            data_before=jnp.zeros_like(x),
        )

    def step(
        self, state: UniPCState, x: Latents, v: Latents, row: TimeGrid
    ) -> tuple[UniPCState, Latents]:
        update = jnp.broadcast_to(jnp.asarray(row.update), state.steps.shape)
        # Frames that rest may be at sigma 0; any other number keeps their discarded result finite.
        sigma = jnp.where(update, row.sigma, 0.5)
        data = x - over_latents(sigma) * v
        corrected = correct(state, sigma, x, data)
        moved = predict(state, sigma, jnp.where(update, row.sigma_next, 0.25), corrected, data)
        after = UniPCState(
            steps=state.steps + 1,
            sigma=sigma,
            sigma_before=state.sigma,
            x=corrected,
            data=data,
            data_before=state.data,
        )

        def choose(new, old):
            return jnp.where(over_latents(update) if new.ndim > 1 else update, new, old)

        return jax.tree.map(choose, after, state), choose(moved, x)


def predict(
    state: UniPCState, sigma: PerFrame, sigma_next: PerFrame, x: Latents, data: Latents
) -> Latents:
    """Returns the sample at `sigma_next` from the one at `sigma` (UniP)."""
    ratio = sigma_next / sigma
    h = log_snr(sigma_next) - log_snr(sigma)
    slope = 0.5 * h / (log_snr(state.sigma) - log_snr(sigma))
    second_order = (state.steps > 0) & (sigma_next > 0)
    slope = over_latents(jnp.where(second_order, slope, 0.0))
    ratio = over_latents(ratio)
    return ratio * x + (1 - ratio) * (data + slope * (state.data - data))


def correct(state: UniPCState, sigma: PerFrame, x: Latents, data: Latents) -> Latents:
    """Returns the sample at `sigma`, now that the data predicted there is known (UniC)."""
    h = log_snr(sigma) - log_snr(state.sigma)
    r = (log_snr(state.sigma_before) - log_snr(state.sigma)) / h
    b1, b2 = corrector_integrals(-h)
    before = (b1 - b2) / (1 - r)  # solves [[1, 1], [r, 1]] (before, now) = (b1, b2)
    second_order = state.steps > 1
    now = over_latents(jnp.where(second_order, b1 - before, 0.5))
    before = over_latents(jnp.where(second_order, before / r, 0.0))
    ratio = over_latents(sigma / state.sigma)
    change = before * (state.data_before - state.data) + now * (data - state.data)
    corrected = ratio * state.x + (1 - ratio) * (state.data + change)
    return jnp.where(over_latents(state.steps > 0), corrected, x)


def log_snr(sigma: PerFrame) -> PerFrame:
    """Returns log(alpha / sigma), the time in which the solver's steps are measured."""
    return jnp.log1p(-sigma) - jnp.log(sigma)


def corrector_integrals(u: PerFrame) -> tuple[PerFrame, PerFrame]:
    """Returns (e^u - 1 - u) / (u (e^u - 1)) and 2 (e^u - 1 - u - u^2 / 2) / (u^2 (e^u - 1)).

    Near 0, where the differences would lose all digits in float32, their series is summed.
    """
    first, second, term = jnp.zeros_like(u), jnp.zeros_like(u), jnp.ones_like(u)
    for power in range(SERIES):  # first: sum of u^k / (k+2)!, second: sum of u^k / (k+3)!
        first = first + term / (power + 2)
        second = second + term / ((power + 2) * (power + 3))
        term = term * u / (power + 2)
    small = jnp.abs(u) < 1
    direct = (jnp.expm1(u) - u) / u**2
    first = jnp.where(small, first, direct)
    second = jnp.where(small, second, (direct - 0.5) / u)
    scale = u / jnp.expm1(u)
    return scale * first, 2 * scale * second
