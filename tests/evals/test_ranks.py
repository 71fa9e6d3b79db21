"""Statistics of ranks against hand computation and their definitions."""

import itertools

import numpy as np
import pytest

from skyreels_jax.evals.ranks import rank_correlation, ranks, roc_area, roc_curve


def test_equal_values_share_the_mean_of_their_ranks():
    assert ranks(np.array([30.0, 10.0, 20.0, 20.0, 40.0])).tolist() == [4, 1, 2.5, 2.5, 5]
    assert ranks(np.full(3, 7.0)).tolist() == [2, 2, 2]


def test_correlation_by_hand():
    a = np.array([1.0, 2.0, 3.0, 4.0, 5.0])
    assert rank_correlation(a, np.exp(a)) == pytest.approx(1)
    assert rank_correlation(a, -(a**3)) == pytest.approx(-1)
    # 1 - 6 sum d^2 / (n (n^2 - 1)) with one neighbouring pair swapped: 1 - 6 * 2 / 120.
    assert rank_correlation(a, np.array([1.0, 2.0, 4.0, 3.0, 5.0])) == pytest.approx(0.9)
    # With ties it is Pearson's correlation of the ranks.
    tied = rank_correlation(np.array([1.0, 1.0, 2.0]), np.array([1.0, 2.0, 3.0]))
    assert tied == pytest.approx(np.corrcoef([1.5, 1.5, 3], [1, 2, 3])[0, 1])


def test_correlation_of_nothing_is_none():
    one, two = np.array([1.0]), np.array([1.0, 2.0])
    for a, b in ((one, one), (two, np.array([3.0, 3.0])), (two, np.array([1.0, np.nan]))):
        assert np.isnan(rank_correlation(a, b))


def test_area_is_the_share_of_pairs_in_order():
    rng = np.random.default_rng(0)
    good, bad = (np.round(rng.normal(m, 1, n), 1) for m, n in ((0.5, 40), (0.0, 30)))
    wins = [(g > b) + 0.5 * (g == b) for g, b in itertools.product(good, bad)]
    assert roc_area(good, bad) == pytest.approx(np.mean(wins))
    false, true = roc_curve(good, bad)
    under = np.sum(np.diff(false) * (true[1:] + true[:-1]) / 2)
    assert under == pytest.approx(roc_area(good, bad))
    assert (false[0], true[0], false[-1], true[-1]) == (0, 0, 1, 1)
    assert np.isnan(roc_area(good, bad[:0]))


def test_curve_by_hand():
    false, true = roc_curve(np.array([3.0, 1.0]), np.array([2.0, 0.0]))
    assert false.tolist() == [0, 0, 0.5, 0.5, 1] and true.tolist() == [0, 0.5, 0.5, 1, 1]
