"""Contexts of texts, and mixtures of two of them."""

import jax.numpy as jnp
import numpy as np
import pytest

from skyreels_jax.diffusion.grids import synchronous
from skyreels_jax.diffusion.plan import Plan, time_grid
from skyreels_jax.models.umt5.text import compact_context
from skyreels_jax.pipelines.generate import mix
from skyreels_jax.pipelines.stream import window_grid

LIMIT = 12  # tokens to which pipelines pad


def compact(length: int, size: int, seed: int) -> dict:
    hidden = np.random.default_rng(seed).normal(size=(1, size, 4)).astype(np.float32)
    context, weight = compact_context(
        jnp.asarray(hidden), jnp.array([length], jnp.int32), max_length=LIMIT
    )
    return {"context": context, "context_weight": weight}


def padded(part: dict) -> np.ndarray:
    """Returns what the pipelines hand to the model: every state as often as it counts."""
    weight = np.asarray(part["context_weight"][0]).astype(int)
    states = np.repeat(np.asarray(part["context"][0]), weight, axis=0)
    assert len(states) == LIMIT
    return states


@pytest.mark.parametrize("lengths", [(3, 6), (6, 3), (5, 5), (1, 11), (11, 12), (12, 2)])
@pytest.mark.parametrize("share", [0.25, 1.0])
def test_mixtures_are_those_of_padded_texts(lengths, share):
    size = min(max(lengths) + 1, LIMIT)
    first, second = (compact(length, size, seed) for seed, length in enumerate(lengths))
    want = (1 - share) * padded(first) + share * padded(second)
    got = padded(mix(first, second, jnp.float32(share)))
    np.testing.assert_allclose(got, want, atol=1e-6)


def test_a_window_whose_frames_move_together_has_one_column():
    options = {"latent_frames": 5, "inference_steps": 4, "shift": 3.0}
    for got, want in zip(window_grid(Plan(**options)), synchronous(4, shift=3.0), strict=True):
        np.testing.assert_array_equal(got, want)
    for changed in ({"prefix": 1}, {"suffix": 1}, {"ar_step": 1}):
        plan = Plan(**options, **changed)
        for got, want in zip(window_grid(plan), time_grid(plan), strict=True):
            np.testing.assert_array_equal(got, want)
        assert window_grid(plan).timestep.shape[1] == 5
