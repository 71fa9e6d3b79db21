"""The sampler loop and guidance: the two ways to run agree, and nothing is compiled twice."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.tree_util import Partial

from skyreels_jax.diffusion import grids
from skyreels_jax.diffusion.guidance import conditional, guided
from skyreels_jax.diffusion.sample import sample, sample_steps
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
