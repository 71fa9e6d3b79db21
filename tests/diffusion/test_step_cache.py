"""The step cache: its plan is the official rule; what it reuses is what a run by hand reuses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.tree_util import Partial

from skyreels_jax.core.errors import UserError
from skyreels_jax.diffusion import grids
from skyreels_jax.diffusion.guidance import conditional, guided
from skyreels_jax.diffusion.sample import sample, sample_steps
from skyreels_jax.diffusion.solvers import Euler, UniPC
from skyreels_jax.diffusion.step_cache import (
    always_computed,
    check_times,
    computed_rows,
    with_step_cache,
)

SHAPE = (2, 3, 2, 2, 4)
POLYNOMIALS = {
    "plain": (1.0, 0.0),
    "1.3B": (2.39676752e03, -1.31110545e03, 2.01331979e02, -8.29855975e00, 1.37887774e-01),
    "negative": (1.0, -0.05),
}
traces = []


class Toy(nnx.Module):
    """A model with something in front of its blocks and something behind them."""

    def __init__(self):
        keys = jax.random.split(jax.random.key(5), 3)
        self.before, self.within, self.behind = (
            nnx.Param(jax.random.normal(key, (4, 4)) / 2) for key in keys
        )

    def embed(self, x, context):
        return (x @ self.before[...]).reshape(len(x), -1, 4) + context[:, None]

    def blocks(self, tokens, timestep):
        return tokens + jnp.tanh(tokens @ self.within[...]) * timestep[:, :1, None] / 1000

    def project(self, tokens, x):
        return (tokens @ self.behind[...]).reshape(x.shape)

    def __call__(self, x, timestep, *, context, run_blocks=lambda blocks, tokens: blocks(tokens)):
        traces.append(x.shape)
        tokens = run_blocks(lambda tokens: self.blocks(tokens, timestep), self.embed(x, context))
        return self.project(tokens, x)


def noise(seed=0):
    return jax.random.normal(jax.random.key(seed), SHAPE)


def context(value):
    return {"context": jnp.full((SHAPE[0], 4), value)}


def embeddings(rows=30, seed=0):
    """A walk that slows down, as time embeddings do."""
    steps = np.random.default_rng(seed).normal(size=(rows, 1, 16))
    return 1 + np.cumsum(0.1 * steps / np.sqrt(1 + np.arange(rows))[:, None, None], axis=0)


def official_rule(embedding, polynomial, threshold, use_ret_steps):
    """The loop of the official forward pass over calls: conditional, unconditional, conditional ...

    But for its counter, which the official code sets back after half of all calls.
    """
    first, cutoff = (10, 2 * len(embedding)) if use_ret_steps else (2, 2 * len(embedding) - 2)
    states = [{"sum": 0.0, "previous": None}, {"sum": 0.0, "previous": None}]
    computed = []
    for call in range(2 * len(embedding)):
        state, modulated = states[call % 2], embedding[call // 2]
        if call < first or call >= cutoff:
            compute, state["sum"] = True, 0.0
        else:
            difference = np.abs(modulated - state["previous"]).mean()
            state["sum"] += np.poly1d(polynomial)(difference / np.abs(state["previous"]).mean())
            compute = state["sum"] >= threshold
            if compute:
                state["sum"] = 0.0
        state["previous"] = modulated
        computed.append(compute)
    assert computed[::2] == computed[1::2]
    return computed[::2]


@pytest.mark.parametrize("use_ret_steps", [False, True])
@pytest.mark.parametrize("polynomial", POLYNOMIALS)
def test_the_plan_is_the_official_rule(polynomial, use_ret_steps):
    always = always_computed(grids.synchronous(30), use_ret_steps=use_ret_steps)
    coefficients, skipped = POLYNOMIALS[polynomial], []
    for threshold in (0.05, 0.1, 0.2, 0.3):
        options = {"coefficients": coefficients, "threshold": threshold, "always": always}
        plan = computed_rows(embeddings(), **options)
        expected = official_rule(embeddings(), coefficients, threshold, use_ret_steps)
        assert plan.tolist() == expected
        skipped.append(30 - plan.sum())
    assert skipped == sorted(skipped) and 0 < skipped[-1] < 30


def test_threshold_zero_is_no_cache():
    grid = grids.synchronous(30)
    always = always_computed(grid, use_ret_steps=False)
    plan = computed_rows(embeddings(), coefficients=(1.0, -1.0), threshold=0.0, always=always)
    velocity_fn = conditional(Toy(), context(1.0))
    cached, memory = with_step_cache(velocity_fn, plan, noise(), jnp.zeros((SHAPE[0], 1)))
    assert plan.all() and cached is velocity_fn and memory is None


def by_hand(model, plan, scale):
    """Euler with a residual of its own for each condition."""
    x, residuals = noise(), [None, None]
    grid = grids.synchronous(len(plan), shift=3.0)
    for row, compute in enumerate(plan):
        timestep = jnp.full((SHAPE[0], 1), grid.timestep[row, 0])
        v = []
        for which, value in enumerate((-0.5, 1.0)):
            tokens = model.embed(x, **context(value))
            if compute:
                residuals[which] = model.blocks(tokens, timestep) - tokens
            v.append(model.project(tokens + residuals[which], x))
        x = x + (grid.sigma_next - grid.sigma)[row, 0] * (v[0] + scale * (v[1] - v[0]))
    return x


def run(velocity_fn, plan, solver):
    grid = grids.synchronous(len(plan), shift=3.0)
    timestep = jnp.zeros((SHAPE[0], 1))
    velocity_fn, memory = with_step_cache(velocity_fn, np.array(plan), noise(), timestep)
    whole = jax.jit(lambda f, m: sample(f, noise(), grid, solver, memory=m))(velocity_fn, memory)
    rows = list(sample_steps(velocity_fn, noise(), grid, solver, memory=memory))
    np.testing.assert_allclose(rows[-1], whole, rtol=1e-5, atol=1e-5)
    return whole


def twice(model, null, full, scale, x, timestep):
    """Guidance in two calls instead of one on twice the batch."""
    null, full = model(x, timestep, **null), model(x, timestep, **full)
    return null + scale * (full - null)


def test_reuse_equals_a_run_by_hand_under_guidance():
    model, plan = Toy(), [True, True, False, False, True, False, True]
    expected = by_hand(model, plan, 4.0)
    velocity_fn = guided(model, context(1.0), context(-0.5), 4.0)
    np.testing.assert_allclose(run(velocity_fn, plan, Euler()), expected, rtol=1e-5, atol=1e-5)
    calls = Partial(twice, model, context(-0.5), context(1.0), 4.0)
    np.testing.assert_allclose(run(calls, plan, Euler()), expected, rtol=1e-5, atol=1e-5)
    full = sample(velocity_fn, noise(), grids.synchronous(7, shift=3.0), Euler())
    assert np.abs(full - expected).max() > 1e-2
    np.testing.assert_allclose(by_hand(model, [True] * 7, 4.0), full, rtol=1e-5, atol=1e-5)


def test_other_plans_and_step_counts_compile_nothing_new():
    velocity_fn, timestep = conditional(Toy(), context(1.0)), jnp.zeros((SHAPE[0], 1))

    def sampled(plan):
        cached, memory = with_step_cache(velocity_fn, np.array(plan), noise(), timestep)
        traces.clear()
        list(sample_steps(cached, noise(), grids.synchronous(len(plan)), UniPC(), memory=memory))
        return len(traces)

    sampled([True, False, True])
    assert sampled([True, True, False, False, True]) == 0


def test_diffusion_forcing_is_refused():
    sigma = np.linspace(0.9, 0, 4)[:, None]
    check_times(grids.from_sigmas(np.tile(sigma, 3)))
    sigma = np.concatenate([np.zeros_like(sigma), sigma], axis=1)
    with pytest.raises(UserError, match="frames are at different times"):
        check_times(grids.from_sigmas(sigma))


def test_residuals_do_not_outlive_their_window():
    grid = grids.from_sigmas(np.tile(np.linspace(0.9, 0, 7)[:, None], 4))
    window = np.array([[0, 1], [0, 1], [1, 2], [1, 2], [1, 2], [2, 3]], np.int32)
    always = always_computed(grid._replace(window=window), use_ret_steps=False)
    assert always.tolist() == [True, False, True, False, False, True]


def test_the_first_row_has_nothing_to_reuse():
    with pytest.raises(ValueError, match="first row"):
        with_step_cache(
            conditional(Toy(), context(1.0)),
            np.array([False, True]),
            noise(),
            jnp.zeros((SHAPE[0], 1)),
        )
