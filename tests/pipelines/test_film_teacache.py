"""The step cache in films: off at threshold 0, in the recipe, judged by the model's own times."""

import numpy as np
import pytest

from skyreels_jax.core.errors import UserError
from skyreels_jax.diffusion import grids
from skyreels_jax.diffusion.flow import TIMESTEPS
from skyreels_jax.pipelines.generate import step_cache_embedding
from skyreels_jax.pipelines.teacache import TeaCache

PROMPT = "A large red circle moves left."
STEPS = 6


def rows(micro, grid, **options):
    options = {"threshold": 2.0, "use_ret_steps": False, "coefficients": (1.0, 0.0), **options}
    cache = TeaCache(**options)
    return cache.rows(grid, step_cache_embedding(micro._graphdef, micro._adapted()))


def test_threshold_zero_is_the_same_film_bit_for_bit(micro):
    plain = micro.generate(PROMPT, inference_steps=STEPS)
    film = micro.generate(PROMPT, inference_steps=STEPS, teacache=True, teacache_thresh=0)
    np.testing.assert_array_equal(film.frames, plain.frames)
    assert (plain.meta["teacache"], film.meta["teacache"]) == (False, True)


def test_skipped_rows_change_the_film_a_little(micro):
    options = {"inference_steps": STEPS, "seed": 1}
    plain = micro.generate(PROMPT, **options)
    film = micro.generate(PROMPT, **options, teacache=True, teacache_thresh=2)
    error = np.abs(film.frames.astype(int) - plain.frames)
    assert 0 < error.mean() < 80
    assert (film.meta["teacache_thresh"], film.meta["use_ret_steps"]) == (2.0, False)
    assert not rows(micro, grids.synchronous(STEPS, shift=3.0)).all()


def test_both_embeddings_are_the_models(micro):
    """Recomputed in numpy from the parameters."""
    tree = micro._adapted()["transformer"]
    grid = grids.synchronous(20, shift=3.0)
    frequency = 10000 ** (-np.arange(16) / 16)
    angle = grid.timestep[:, 0, None] * frequency[None]
    time = np.concatenate([np.cos(angle), np.sin(angle)], axis=-1)

    def linear(x, layer):
        return x @ np.asarray(layer["kernel"], np.float64) + np.asarray(layer["bias"])[None]

    def silu(x):
        return x / (1 + np.exp(-x))

    time = linear(silu(linear(time, tree["time_embedder"]["up"])), tree["time_embedder"]["down"])
    modulation = linear(silu(time), tree["time_proj"])
    for use_ret_steps, m in ((False, time), (True, modulation)):
        total, expected = 0.0, []
        for row in range(20):
            forced = row < 5 if use_ret_steps else row in (0, 19)
            if row:
                total += np.abs(m[row] - m[row - 1]).mean() / np.abs(m[row - 1]).mean()
            expected.append(forced or total >= 2.0)
            total = 0.0 if expected[-1] else total
        found = rows(micro, grid, use_ret_steps=use_ret_steps)
        assert found.tolist() == expected and not all(expected)


def test_requests_are_checked(micro):
    for options, message in [
        ({"teacache_thresh": -0.1}, "teacache_thresh -0.1 is out of range; legal: at least 0"),
        ({"teacache": 1}, "teacache must be true or false"),
        ({"use_ret_steps": "yes"}, "use_ret_steps must be true or false"),
    ]:
        with pytest.raises(UserError, match=message):
            micro.source.request(prompt=PROMPT, **options)


def test_diffusion_forcing_is_refused_unless_forced(micro):
    sigma = np.linspace(0.9, 0, 4)[:, None]
    staggered = np.concatenate([np.zeros_like(sigma), sigma], axis=1)
    grid = grids.from_sigmas(staggered, timestep=TIMESTEPS * staggered[:-1])
    with pytest.raises(UserError, match="refused for diffusion forcing"):
        rows(micro, grid)
    assert rows(micro, grid, force=True).tolist() == [True, False, True]
