"""FoPP: the whole distribution by enumeration, its known statistics, order, blocks."""

import functools
import itertools
import math

import jax
import numpy as np
import pytest
from scipy.stats import chisquare

from skyreels_jax.core.errors import UserError
from skyreels_jax.diffusion import fopp

DRAWS = 40000


@functools.cache
def sample(frames, timesteps, *, block=1, clips=DRAWS):
    """Draws under jit; timesteps 0: the continuous ones."""
    options = {"clips": clips, "frames": frames, "block": block}
    options |= {"timesteps": timesteps} if timesteps else {}
    function = fopp.draw if timesteps else fopp.draw_continuous
    return np.asarray(jax.jit(functools.partial(function, **options))(jax.random.key(5)))


def exact(frames, timesteps):
    """The probability of every nondecreasing path, by counting the paths through each point."""
    times = range(timesteps)
    paths = list(itertools.combinations_with_replacement(times, frames))
    through = {(f, t): sum(path[f] == t for path in paths) for f in range(frames) for t in times}
    points = frames * timesteps
    return {p: sum(1 / through[f, p[f]] for f in range(frames)) / points for p in paths}


@pytest.mark.parametrize(("frames", "timesteps"), [(1, 5), (2, 7), (4, 5), (6, 3)])
def test_every_path_has_its_exact_probability(frames, timesteps):
    expected = exact(frames, timesteps)
    assert sum(expected.values()) == pytest.approx(1)
    drawn, counts = np.unique(sample(frames, timesteps), axis=0, return_counts=True)
    found = dict(zip(map(tuple, drawn.tolist()), counts, strict=True))
    assert set(found) <= set(expected)
    observed = [found.get(path, 0) for path in expected]
    assert chisquare(observed, np.array(list(expected.values())) * DRAWS).pvalue > 1e-3
    for frame in range(frames):  # and so has every frame's time
        marginal = np.zeros(timesteps)
        for path, probability in expected.items():
            marginal[path[frame]] += probability
        observed = np.bincount(sample(frames, timesteps)[:, frame], minlength=timesteps)
        assert chisquare(observed, marginal * DRAWS).pvalue > 1e-3


def test_counts_follow_the_recursion():
    frames, timesteps = 25, 1000
    ends = np.ones((frames, timesteps))
    for i in range(1, frames):
        for j in range(1, timesteps):
            ends[i, j] = ends[i, j - 1] + ends[i - 1, j]
    table = fopp.log_path_counts(frames, timesteps)
    np.testing.assert_allclose(table, np.log(np.cumsum(ends, axis=1)), atol=1e-9)
    assert table[24, 999] == pytest.approx(math.log(math.comb(1024, 25)), abs=1e-9)
    assert np.isfinite(fopp.log_path_counts(400, timesteps)).all()


@pytest.mark.parametrize("timesteps", [1000, 0])
def test_statistics_of_a_full_clip(timesteps):
    """Facts worked out for 25 frames: means of frames, of the span, and the pooled density."""
    times = sample(25, timesteps, clips=4000) / (timesteps or 1)
    assert (np.diff(times, axis=1) >= 0).all()
    assert times.min() >= 0 and times.max() < 1
    means = times.mean(0)
    np.testing.assert_allclose(means[[0, 12, 24]], [0.077, 0.5, 0.924], atol=0.012)
    span = times[:, -1] - times[:, 0]
    assert span.mean() == pytest.approx(0.85, abs=0.01)
    assert (span < 0.3).mean() == pytest.approx(0.03, abs=0.01)
    # All frames together: all but the drawn one have density -(ln t + ln(1 - t)) / 2.
    outer = 0.04 * 0.25 + 0.48 * (1 + 0.25 * np.log(4) + 0.75 * np.log(0.75) - 0.5)
    density = np.histogram(times, bins=4, range=(0, 1))[0] / times.size
    np.testing.assert_allclose(density, [outer, 0.5 - outer, 0.5 - outer, outer], atol=0.02)


def test_the_continuous_form_is_the_limit():
    fine, limit = sample(4, 1000) / 1000, sample(4, 0)
    edges = np.linspace(0, 1, 11)
    for frame in range(4):
        a, b = (np.histogram(x[:, frame], edges)[0] / DRAWS for x in (fine, limit))
        np.testing.assert_allclose(a, b, atol=0.01)


@pytest.mark.parametrize("timesteps", [50, 0])
def test_a_block_shares_its_time(timesteps):
    times = sample(7, timesteps, block=3, clips=500)
    assert times.shape == (500, 7)
    np.testing.assert_array_equal(times[:, :3], times[:, :1].repeat(3, axis=1))
    np.testing.assert_array_equal(times[:, 3:6], times[:, 3:4].repeat(3, axis=1))
    assert (times[:, 2] < times[:, 3]).mean() > 0.5 < (times[:, 5] < times[:, 6]).mean()


def test_all_draws_differ_and_keys_are_used_once():
    with jax.debug_key_reuse(True):
        a = fopp.draw(jax.random.key(0), clips=3, frames=4, timesteps=50)
        fopp.draw_continuous(jax.random.key(1), clips=3, frames=4)
    assert len(np.unique(a, axis=0)) == 3


def test_bad_sizes():
    for bad in ({"timesteps": 0}, {"frames": 0}, {"block": 0}):
        with pytest.raises(UserError, match="at least one"):
            fopp.draw(jax.random.key(0), **({"clips": 1, "frames": 3} | bad))
