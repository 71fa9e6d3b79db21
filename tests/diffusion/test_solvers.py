"""Solver trajectories against diffusers and against a float64 reference; state per latent frame."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from skyreels_jax.core.errors import UserError
from skyreels_jax.diffusion import grids
from skyreels_jax.diffusion.sample import sample, sample_steps
from skyreels_jax.diffusion.solvers import Euler, UniPC, make_solver
from skyreels_jax.diffusion.solvers.unipc import corrector_integrals

SETTINGS = [(1, 8.0), (2, 1.0), (5, 3.0), (5, 8.0), (20, 5.0), (30, 1.0), (30, 8.0), (50, 8.0)]
SHAPE = (2, 3, 2, 2, 4)
MIX = np.random.default_rng(1).normal(size=(4, 4)) * 0.6


def velocity(xp, x, t):
    """A nonlinear velocity that pulls towards a moving target; channels last, t [B, #T]."""
    t = t[:, :, None, None, None] * 1e-3
    mix = MIX if xp is np else xp.asarray(MIX, dtype=x.dtype)
    target = xp.tanh(x @ mix + 2 * xp.cos(3 * t)) + 0.3 * xp.sin(5 * x)
    return (x - target) * (1.5 - t)


jax_velocity = functools.partial(velocity, jnp)


def make_noise(shape=SHAPE):
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def close(ours, theirs, tolerance=1e-4):
    theirs = np.asarray(theirs)
    error = np.abs(np.asarray(ours, np.float64) - theirs).max() / np.abs(theirs).max()
    assert error < tolerance, error


def trajectory(grid, solver=None):
    steps = jax.tree_util.Partial(jax_velocity)
    return list(sample_steps(steps, make_noise(), grid, solver or UniPC()))


# An independent UniPC: numpy float64, one schedule for the whole clip, the general rules of Zhao et
# al. 2023 (linear systems solved), the settings of the official FlowUniPCMultistepScheduler.


def official_schedule(steps, shift):
    """Sigmas [steps + 1] float32 and the whole-number timesteps [steps] the model is given."""
    train = 1.0 - np.linspace(1, 1 / 1000, 1000)[::-1]
    train = train.astype(np.float32)
    sigmas = np.linspace(train[0].item(), train[-1].item(), steps + 1)[:-1]
    sigmas = shift * sigmas / (1 + (shift - 1) * sigmas)
    timesteps = (sigmas * 1000).astype(np.int64)
    return np.concatenate([sigmas, [0.0]]).astype(np.float32), timesteps


def half_log_snr(sigma):
    with np.errstate(divide="ignore"):
        return np.log(1 - sigma) - np.log(sigma)


def vectors(order, hh, rks):
    """The matrix R and the right-hand side b of the B(h) = e^hh - 1 conditions."""
    big_b = np.expm1(hh)
    phi, factorial, rows, b = np.expm1(hh) / hh - 1, 1, [], []
    for i in range(1, order + 1):
        rows.append(np.power(rks, i - 1))
        b.append(phi * factorial / big_b)
        factorial *= i + 1
        phi = phi / hh - 1 / factorial
    return np.stack(rows), np.array(b)


def reference_unipc(velocity, x, sigmas, timesteps):
    """Yields the sample after each step; velocity(x, timestep) -> v."""
    sigmas = np.asarray(sigmas, np.float64)
    data, last, order = [], None, None
    for i, t in enumerate(timesteps):
        now = x - sigmas[i] * velocity(x, t)
        if i > 0:
            x = corrector(now, data, last, sigmas, i, order)
        data.append(now)
        last = x
        order = min(2, len(timesteps) - i, i + 1)
        x = predictor(data, x, sigmas, i, order)
        yield x


def predictor(data, x, sigmas, i, order):
    lam = half_log_snr(sigmas)
    h = lam[i + 1] - lam[i]
    straight = sigmas[i + 1] / sigmas[i] * x - (1 - sigmas[i + 1]) * np.expm1(-h) * data[-1]
    if order == 1:
        return straight
    rk = (lam[i - 1] - lam[i]) / h
    slope = 0.5 * (data[-2] - data[-1]) / rk
    return straight - (1 - sigmas[i + 1]) * np.expm1(-h) * slope


def corrector(now, data, last, sigmas, i, order):
    lam = half_log_snr(sigmas)
    h = lam[i] - lam[i - 1]
    alpha, big_b = 1 - sigmas[i], np.expm1(-h)
    straight = sigmas[i] / sigmas[i - 1] * last - alpha * big_b * data[-1]
    rks = np.array([(lam[i - k - 1] - lam[i - 1]) / h for k in range(1, order)] + [1.0])
    rhos = np.array([0.5]) if order == 1 else np.linalg.solve(*vectors(order, -h, rks))
    change = rhos[-1] * (now - data[-1])
    for k in range(1, order):
        change = change + rhos[k - 1] * (data[-(k + 1)] - data[-1]) / rks[k - 1]
    return straight - alpha * big_b * change


@pytest.mark.parametrize(("steps", "shift"), SETTINGS)
def test_unipc_follows_diffusers(steps, shift):
    from diffusers import UniPCMultistepScheduler

    scheduler = UniPCMultistepScheduler(
        use_flow_sigmas=True, flow_shift=shift, prediction_type="flow_prediction"
    )
    scheduler.set_timesteps(steps)
    grid = grids.synchronous(steps, shift=shift)
    np.testing.assert_array_equal(grid.timestep[:, 0], scheduler.timesteps.numpy())
    np.testing.assert_array_equal(grid.sigma[:, 0], scheduler.sigmas[:-1].numpy())
    np.testing.assert_array_equal(grid.sigma_next[:, 0], scheduler.sigmas[1:].numpy())
    x, ours = torch.from_numpy(make_noise()), trajectory(grid)
    for t, mine in zip(scheduler.timesteps, ours, strict=True):
        v = velocity(torch, x, t.expand(SHAPE[0], 1).float())
        x = scheduler.step(v, t, x, return_dict=False)[0]
        close(mine, x.numpy())


@pytest.mark.parametrize(("steps", "shift"), SETTINGS)
def test_unipc_follows_the_official_rules(steps, shift):
    sigmas, timesteps = official_schedule(steps, shift)
    grid = grids.synchronous(steps, shift=shift, schedule="official")
    np.testing.assert_array_equal(grid.timestep[:, 0], timesteps)
    np.testing.assert_array_equal(np.append(grid.sigma[:, 0], 0), sigmas)

    def exact(x, t):
        return velocity(np, x, np.full((SHAPE[0], 1), float(t)))

    theirs = reference_unipc(exact, make_noise().astype(np.float64), sigmas, timesteps)
    for mine, want in zip(trajectory(grid), theirs, strict=True):
        close(mine, want)


@pytest.mark.parametrize(("solver", "order"), [(Euler(), 1), (UniPC(), 2)])
def test_order_of_convergence(solver, order):
    """On normal data of deviation 0.7 x follows its deviation; errors fall as steps^-order."""

    def deviation(s):
        return np.sqrt(s**2 + 0.49 * (1 - s) ** 2)

    def exact(x, t):
        s = t[:, :, None, None, None] / 1000
        return x * (s - 0.49 * (1 - s)) / (s**2 + 0.49 * (1 - s) ** 2)

    x, errors = make_noise(), []
    for steps in (12, 48):
        grid = grids.from_sigmas(np.linspace(0.95, 0.05, steps + 1)[:, None])
        got = sample(exact, x * deviation(0.95), grid, solver)
        errors.append(np.abs(got - x * deviation(0.05)).max())
    assert errors[0] / errors[1] > 0.7 * 4**order, errors


def test_frames_are_solved_independently():
    """A staggered grid gives each frame what it gets alone, whatever the others do meanwhile."""
    steps, lag, frames = 6, 2, SHAPE[1]
    path = grids.flow_sigmas(steps, shift=3.0)
    position = np.arange(steps + lag * (frames - 1) + 1)[:, None] - lag * np.arange(frames)[None]
    grid = grids.from_sigmas(path[np.clip(position, 0, steps)])
    assert grid.update.sum() == steps * frames
    together = grids.from_sigmas(path[:, None])
    for solver in (Euler(), UniPC()):
        staggered = jax.jit(lambda x, g, s=solver: sample(jax_velocity, x, g, s))
        close(staggered(make_noise(), grid), staggered(make_noise(), together), 1e-5)


@pytest.mark.parametrize("solver", [Euler(), UniPC()])
def test_a_clean_prefix_stays_bit_for_bit(solver):
    sigma = np.repeat(grids.flow_sigmas(4)[:, None], SHAPE[1], axis=1)
    sigma[:, 0] = 0
    grid = grids.from_sigmas(sigma)
    assert not grid.update[:, 0].any() and (grid.timestep[:, 0] == 0).all()

    def loss(x):
        out = sample(jax_velocity, x, grid, solver)
        return (out**2).sum(), out

    (_, out), gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))(make_noise())
    np.testing.assert_array_equal(out[:, 0], make_noise()[:, 0])
    assert np.isfinite(out).all() and np.isfinite(gradient).all()
    np.testing.assert_allclose(gradient[:, 0], 2 * make_noise()[:, 0], rtol=1e-6)


def test_last_step_lands_on_the_predicted_data():
    grid = grids.from_sigmas(np.array([[0.6], [0.0]]))
    x = make_noise()
    v = jax_velocity(x, jnp.full((SHAPE[0], 1), 600.0))
    for solver in (Euler(), UniPC()):
        close(sample(jax_velocity, x, grid, solver), x - 0.6 * v, 1e-6)


def test_corrector_integrals_keep_their_digits():
    """At hundreds of steps u is 0.003, where the textbook formula has no float32 digit left."""
    from fractions import Fraction
    from math import factorial

    for u in (-1e-4, -3e-3, -0.1, -0.99, -1.01, -5.0):
        v = Fraction(np.float32(u).item())
        tail = [sum(v**k / factorial(k + n) for k in range(60)) for n in (1, 2, 3)]
        want = float(tail[1] / tail[0]), float(2 * tail[2] / tail[0])
        got = corrector_integrals(jnp.float32([u]))
        np.testing.assert_allclose(np.concatenate(got), want, rtol=2e-6)


def test_make_solver():
    assert make_solver("unipc") == UniPC() and make_solver("euler") == Euler()
    with pytest.raises(UserError, match="did you mean 'unipc'"):
        make_solver("unipx")
