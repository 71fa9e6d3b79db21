"""Flow path and time grids: formulas, traps, bad input."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from skyreels_jax.core.errors import UserError
from skyreels_jax.diffusion import flow, grids


def test_path_and_velocity_agree():
    data, noise = jax.random.normal(jax.random.key(0), (2, 2, 3, 2, 2, 4))
    sigma = jnp.array([[0.0, 0.25, 1.0], [0.5, 0.5, 0.75]])
    x, dx = jax.jvp(lambda s: flow.interpolate(data, noise, s), (sigma,), (jnp.ones((2, 3)),))
    np.testing.assert_allclose(dx, flow.velocity(data, noise), rtol=1e-6)
    np.testing.assert_array_equal(x[0, 0], data[0, 0])
    np.testing.assert_array_equal(x[0, 2], noise[0, 2])
    np.testing.assert_allclose(flow.timestep(sigma), 1000 * sigma)
    per_clip = flow.interpolate(data, noise, sigma[:, :1])
    np.testing.assert_array_equal(
        per_clip, flow.interpolate(data, noise, jnp.repeat(sigma[:, :1], 3, axis=1))
    )


def test_shift():
    sigma = np.linspace(0, 1, 11)
    np.testing.assert_array_equal(flow.shift_sigma(sigma, 1.0), sigma)
    np.testing.assert_allclose(flow.shift_sigma(flow.shift_sigma(sigma, 8.0), 1 / 8), sigma)
    assert (flow.shift_sigma(sigma, 5.0)[1:-1] > sigma[1:-1]).all()


@pytest.mark.parametrize("schedule", ["diffusers", "official"])
def test_synchronous(schedule):
    grid = grids.synchronous(30, shift=8.0, schedule=schedule)
    assert all(column.shape == (30, 1) for column in grid if column is not None)
    assert grid.update.all() and grid.sigma_next[-1] == 0
    assert (np.diff(grid.sigma[:, 0]) < 0).all() and (grid.sigma < 1).all()
    np.testing.assert_array_equal(grid.sigma[1:], grid.sigma_next[:-1])
    assert grid.timestep[0, 0] == 999 and (grid.timestep == np.trunc(grid.timestep)).all()
    assert (np.abs(grid.timestep - 1000 * grid.sigma) < 1).all()


def test_sigmas_from_a_level():
    whole = grids.flow_sigmas(10, shift=3.0)
    for level in (1.0, float(whole[0]) + 1e-7):
        np.testing.assert_array_equal(grids.flow_sigmas(10, shift=3.0, level=level), whole)
    part = grids.flow_sigmas(10, shift=3.0, level=0.5)
    np.testing.assert_array_equal(part, [0.5, *whole[whole < 0.5]])
    np.testing.assert_array_equal(grids.flow_sigmas(10, level=1e-3), [1e-3, 0])


def test_first_sigmas():
    assert grids.flow_sigmas(4, shift=3.0)[0] == 1 - 1e-6
    assert grids.flow_sigmas(4, schedule="official")[0] == np.float32(0.999)


def test_from_sigmas_tells_resting_frames():
    grid = grids.from_sigmas(np.array([[1.0, 0.0, 1.0], [0.5, 0.0, 1.0], [0.0, 0.0, 0.5]]))
    np.testing.assert_array_equal(grid.update, [[True, False, False], [True, False, True]])
    np.testing.assert_array_equal(grid.timestep, [[1000, 0, 1000], [500, 0, 1000]])
    assert jax.tree.leaves(grid)[0].dtype == np.float32
    given = grids.from_sigmas(
        np.ones((2, 1)), timestep=np.full((1, 1), 7.0), update=np.ones((1, 1), bool)
    )
    assert given.timestep == 7 and given.update


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: grids.flow_sigmas(0), "inference_steps"),
        (lambda: grids.flow_sigmas(-3), "inference_steps"),
        (lambda: grids.flow_sigmas(3, shift=0.0), "shift"),
        (lambda: grids.flow_sigmas(3, shift=float("nan")), "shift"),
        (lambda: grids.flow_sigmas(3, level=0.0), "noise level 0 is out of range; legal: more"),
        (lambda: grids.flow_sigmas(3, level=1.5), "at most 1"),
        (lambda: grids.from_sigmas(np.array([[1.5], [0.0]])), "between 0 and 1"),
    ],
)
def test_bad_values(call, message):
    with pytest.raises(UserError, match=message):
        call()
