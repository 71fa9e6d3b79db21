"""The solver and the noise levels that are asked for make the film, and are in its recipe."""

import numpy as np
import pytest
from streams import PROMPT, SMALL, frames

from skyreels_jax.diffusion.grids import flow_sigmas
from skyreels_jax.diffusion.solvers import Euler, UniPC
from skyreels_jax.pipelines import generate as parts

OTHERS = {"solver": "euler", "schedule": "official"}


@pytest.fixture
def sampled(monkeypatch):
    """The solver and the noise levels [rows] of the first frame of every run of the sampler."""
    found, steps = [], parts.sample_steps

    def spied(velocity, x, grid, solver, **how):
        found.append((solver, np.asarray(grid.sigma)[:, -1]))
        return steps(velocity, x, grid, solver, **how)

    monkeypatch.setattr(parts, "sample_steps", spied)
    return found


def test_what_is_asked_for_is_used_and_said(micro, sampled):
    made = [micro.generate(PROMPT, shift=3.0, inference_steps=3, **o) for o in ({}, OTHERS)]
    (solver, sigma), (other, others) = sampled
    assert (solver, other) == (UniPC(), Euler())
    np.testing.assert_allclose(sigma, flow_sigmas(3, shift=3.0)[:-1], rtol=1e-6)
    official = flow_sigmas(3, shift=3.0, schedule="official")[:-1]
    np.testing.assert_allclose(others, official, rtol=1e-6)
    assert [(f.meta["solver"], f.meta["schedule"]) for f in made] == [
        ("unipc", "diffusers"),
        ("euler", "official"),
    ]
    assert (made[0].frames != made[1].frames).any()


def test_blocks_from_a_cache_too(causal, sampled):
    causal.generate(PROMPT, num_frames=13, **SMALL, **OTHERS)
    assert {solver for solver, _ in sampled} == {Euler()} and len(sampled) == 2


def test_a_resumed_film_keeps_them(forcing, sampled, tmp_path):
    stream = forcing.stream(PROMPT, num_frames=13, **SMALL, **OTHERS)
    next(stream)
    state = stream.state.save(tmp_path / "film.state")
    np.testing.assert_array_equal(frames(forcing.resume(state)), frames(stream))
    assert {solver for solver, _ in sampled} == {Euler()}
