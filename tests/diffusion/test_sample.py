"""The sampler loop and guidance: the two ways to run agree, and nothing is compiled twice."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.tree_util import Partial

from skyreels_jax.core.rng import stream
from skyreels_jax.diffusion import grids
from skyreels_jax.diffusion.guidance import conditional, guided
from skyreels_jax.diffusion.plan import Plan, time_grid
from skyreels_jax.diffusion.sample import advance, condition_noise, place, sample, sample_steps
from skyreels_jax.diffusion.solvers import Euler, UniPC

SHAPE = (2, 3, 2, 2, 4)
traces = []


class Toy(nnx.Module):
    """A model called as the DiT is: (latents, timestep, **cond) -> velocity."""

    def __init__(self, dtype=jnp.float32):
        self.kernel = nnx.Param(0.5 * jax.random.normal(jax.random.key(3), (4, 4)).astype(dtype))

    def __call__(self, x, timestep, *, context):
        traces.append(x.shape)
        y = jnp.tanh(x.astype(self.kernel.dtype) @ self.kernel[...])
        return y + (context[:, None, None, None] * timestep[:, :, None, None, None] / 1000)


def make_noise(seed=0):
    return jax.random.normal(jax.random.key(seed), SHAPE)


def context(value):
    return {"context": jnp.full((SHAPE[0], 4), value)}


def test_guidance_formula():
    model, x, t = Toy(), make_noise(), jnp.full((SHAPE[0], 1), 300.0)
    full, null = conditional(model, context(1.0))(x, t), conditional(model, context(-0.5))(x, t)
    for scale in (0.0, 1.0, 6.0):
        got = guided(model, context(1.0), context(-0.5), scale)(x, t)
        np.testing.assert_allclose(got, null + scale * (full - null), rtol=1e-5, atol=1e-5)


def test_guidance_is_one_call_on_twice_the_batch():
    traces.clear()
    per_frame = jnp.full(SHAPE[:2], 300.0)
    guided(Toy(), context(1.0), context(0.0), 3.0)(make_noise(), per_frame)
    assert traces == [(2 * SHAPE[0], *SHAPE[1:])]


@pytest.mark.parametrize("solver", [Euler(), UniPC()])
def test_both_ways_to_run_agree(solver):
    grid = grids.synchronous(5, shift=3.0)
    velocity_fn = guided(Toy(), context(1.0), context(0.0), 4.0)
    rows = list(sample_steps(velocity_fn, make_noise(), grid, solver))
    assert len(rows) == 5
    whole = jax.jit(lambda f, x, g: sample(f, x, g, solver))(velocity_fn, make_noise(), grid)
    np.testing.assert_allclose(rows[-1], whole, rtol=1e-5, atol=1e-5)
    assert all(not row.is_deleted() for row in rows)


def test_scale_shift_seed_text_and_weights_compile_nothing_new():
    run = jax.jit(lambda f, x, g: sample(f, x, g, UniPC()))

    def calls(seed, scale, shift, text):
        model = Toy()
        model.kernel[...] = model.kernel[...] + 0.01 * seed
        velocity_fn = guided(model, context(text), context(0.0), scale)
        grid = grids.synchronous(3, shift=shift)
        list(sample_steps(velocity_fn, make_noise(seed), grid, UniPC()))
        run(velocity_fn, make_noise(seed), grid)

    calls(0, 3.0, 1.0, 0.5)
    traces.clear()
    calls(1, 6.0, 8.0, 0.1)
    calls(2, jnp.float32(1.5), 5.0, 1.0)
    assert not traces


def test_compiled_sampling_does_not_talk_to_the_host():
    """Everything goes in once; no transfer either way while it runs."""
    grid = jax.device_put(grids.synchronous(3))
    velocity_fn = conditional(Toy(), context(1.0))
    run = jax.jit(lambda f, x, g: sample(f, x, g, UniPC()))
    noise = make_noise()
    run(velocity_fn, noise, grid)
    with jax.transfer_guard("disallow"):
        run(velocity_fn, noise, grid).block_until_ready()


def test_latents_stay_float32_in_low_precision_models():
    velocity_fn = conditional(Toy(jnp.bfloat16), context(1.0))
    out = sample(velocity_fn, make_noise().astype(jnp.bfloat16), grids.synchronous(2), UniPC())
    assert out.dtype == jnp.float32


def test_plain_functions_and_partials_are_velocity_functions():
    grid = grids.synchronous(2)
    plain = sample(lambda x, t: 0.1 * x, make_noise(), grid, Euler())
    partial = sample(Partial(lambda x, t: 0.1 * x), make_noise(), grid, Euler())
    np.testing.assert_array_equal(plain, partial)


def test_the_model_sees_one_time_per_clip_or_per_frame():
    seen = []

    def velocity_fn(x, t):
        seen.append(t.shape)
        return x

    sigma = np.linspace(0.9, 0, 3)[:, None]
    sample(velocity_fn, make_noise(), grids.from_sigmas(sigma), Euler())
    sample(velocity_fn, make_noise(), grids.from_sigmas(np.tile(sigma, 3)), Euler())
    assert seen == [(2, 1), (2, 3)]


def frame_velocity(x, timestep):
    """A nonlinear velocity in which no frame sees another."""
    t = timestep[:, :, None, None, None] / 1000
    return (x - jnp.tanh(x[..., ::-1] + 2 * jnp.cos(3 * t)) - 0.3 * jnp.sin(5 * x)) * (1.5 - t)


PLANS = {
    "asynchronous": Plan(
        latent_frames=5, inference_steps=4, shift=5.0, ar_step=1, prefix=1, suffix=1
    ),
    "blocks": Plan(
        latent_frames=5, inference_steps=4, shift=5.0, ar_step=3, causal_block_size=5, prefix=2
    ),
    "window": Plan(latent_frames=5, inference_steps=4, shift=5.0, ar_step=2, base=2),
    "autoregressive": Plan(
        latent_frames=5, inference_steps=4, shift=5.0, ar_step=4, prefix=1, addnoise_condition=20.0
    ),
}


def rows_of(plan, solver, noise):
    keys = jnp.stack([stream(seed, "test") for seed in range(noise.shape[0])])
    steps = sample_steps(Partial(frame_velocity), noise, time_grid(plan), solver, keys=keys)
    return np.stack([noise, *steps])


@pytest.mark.parametrize("solver", [Euler(), UniPC()])
@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
def test_each_frame_goes_the_way_it_goes_alone(plan, solver):
    noise = np.asarray(jax.random.normal(jax.random.key(4), (2, 5, 2, 2, 4)))
    rows, update = rows_of(plan, solver, noise), time_grid(plan).update
    single = Plan(latent_frames=1, inference_steps=plan.inference_steps, shift=plan.shift)
    for frame in range(plan.latent_frames):
        moved, here = update[:, frame], rows[:, :, frame]
        np.testing.assert_array_equal(here[1:][~moved], here[:-1][~moved])
        if moved.any():
            alone = rows_of(single, solver, noise[:, frame : frame + 1])[1:, :, 0]
            np.testing.assert_allclose(here[1:][moved], alone, rtol=1e-5, atol=1e-5)


def test_the_model_sees_noised_conditions_that_stay_clean():
    plan = dataclasses.replace(PLANS["autoregressive"], ar_step=0, inference_steps=2, prefix=2)
    grid, solver, seen = time_grid(plan), Euler(), []
    clean = jax.random.normal(jax.random.key(1), (2, 2, 2, 2, 4))
    start = place(jax.random.normal(jax.random.key(0), (2, 5, 2, 2, 4)), prefix=clean)
    keys = jnp.stack([stream(seed, "test") for seed in (3, 4)])

    def velocity_fn(x, timestep):
        seen.append((x, timestep))
        return x

    x = start
    for number in range(2):
        before, row = x, jax.tree.map(lambda column, i=number: column[i], grid)
        _, x = advance(
            velocity_fn, (None, ()), before, row, solver=solver, number=number, keys=keys
        )
        noise = condition_noise(keys, number, start.shape[1:])
        told, timestep = seen[number]
        np.testing.assert_allclose(told[:, :2], 0.98 * clean + 0.02 * noise[:, :2], rtol=1e-5)
        np.testing.assert_array_equal(told[:, 2:], before[:, 2:])
        np.testing.assert_array_equal(timestep[:, :2], np.full((2, 2), 20.0))
        np.testing.assert_array_equal(x[:, :2], clean)
    assert not np.allclose(seen[0][0][:, :2], seen[1][0][:, :2])  # fresh in every row
    with pytest.raises(ValueError, match="pass keys"):
        advance(velocity_fn, (None, ()), x, row, solver=solver)


def test_condition_noise_hangs_on_seed_and_row_only():
    shape, keys = SHAPE[1:], jnp.stack([stream(seed, "test") for seed in (3, 4)])
    together = condition_noise(keys, 1, shape)
    np.testing.assert_array_equal(together[1:], condition_noise(keys[1:], 1, shape))
    for other in (condition_noise(keys, 2, shape), together[::-1]):
        assert not np.allclose(together, other)
    assert abs(together.std() - 1) < 0.2


@pytest.mark.parametrize("name", ["window", "autoregressive"])
def test_both_ways_to_run_agree_on_plans(name):
    noise = jax.random.normal(jax.random.key(4), (2, 5, 2, 2, 4))
    velocity_fn, grid = conditional(Toy(), context(1.0)), time_grid(PLANS[name])
    keys = jnp.stack([stream(seed, "test") for seed in (3, 4)])
    *_, last = sample_steps(velocity_fn, noise, grid, UniPC(), keys=keys)
    run = jax.jit(lambda f, x, g, k: sample(f, x, g, UniPC(), keys=k))
    np.testing.assert_allclose(last, run(velocity_fn, noise, grid, keys), rtol=1e-5, atol=1e-5)


def test_seeds_windows_and_prefixes_compile_nothing_new():
    def run(seed, plan):
        keys = jnp.stack([stream(seed, "test")] * 2)
        noise = jax.random.normal(stream(seed, "noise"), (2, 5, 2, 2, 4))
        list(
            sample_steps(
                conditional(Toy(), context(1.0)), noise, time_grid(plan), Euler(), keys=keys
            )
        )

    run(0, dataclasses.replace(PLANS["window"], prefix=2, addnoise_condition=20.0))
    traces.clear()
    run(1, dataclasses.replace(PLANS["window"], prefix=1, addnoise_condition=50.0, ar_step=3))
    assert not traces


def test_place():
    noise, clean = make_noise(), np.asarray(make_noise(1)[:, :1])
    placed = place(np.asarray(noise), prefix=clean, suffix=2 * clean)
    np.testing.assert_array_equal(placed, jnp.concatenate([clean, noise[:, 1:2], 2 * clean], 1))
    np.testing.assert_array_equal(place(noise), noise)
