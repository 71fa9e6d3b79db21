"""Accuracy, calibration, strength and agreement of reward scores, by hand."""

import imageio.v3 as iio
import numpy as np
import pytest

from skyreels_jax.evals.reward import (
    BETTER,
    TIE,
    WORSE,
    ScoredPairs,
    Strengths,
    agreement,
    expected_error,
    reliability,
    share,
)
from skyreels_jax.evals.reward_plots import plot_reward


@pytest.fixture
def pairs():
    """Four decisive pairs, three of them right, and a tie."""
    return ScoredPairs(
        kinds=("jitter", "jitter", "freeze", "freeze", "freeze"),
        labels=np.array([BETTER, WORSE, BETTER, BETTER, TIE]),
        chosen=np.array([2.0, 0.0, 1.0, -1.0, 0.3]),
        rejected=np.array([0.0, 1.0, 0.5, 1.0, 0.1]),
        probabilities=np.array(
            [[0.8, 0.1, 0.1], [0.1, 0.3, 0.6], [0.6, 0.2, 0.2], [0.1, 0.7, 0.2], [0.1, 0.1, 0.8]]
        ),
    )


def test_accuracy_with_and_without_ties(pairs):
    assert pairs.right().tolist() == [True, True, True, False]
    assert pairs.likeliest_right().tolist() == [True, False, True, False, True]
    found = pairs.summary()
    assert (found["pairs"], found["ties"]) == (5, 1)
    assert found["accuracy_decisive"] == 0.75 and found["accuracy"] == 0.6
    assert found["accuracy_decisive_error"] == pytest.approx((0.75 * 0.25 / 4) ** 0.5, abs=1e-4)
    # Better sides 2, 1, 1, -1 and worse ones 0, 0, 0.5, 1: 10 of 16 in order, 2 equal.
    assert found["roc_area"] == pytest.approx((10 + 2 / 2) / 16, abs=1e-4)
    freeze = pairs.of("freeze")
    assert freeze.kinds == ("freeze",) * 3 and freeze.summary()["accuracy_decisive"] == 0.5


def test_equal_scores_are_not_right():
    one = ScoredPairs(
        kinds=("a",),
        labels=np.array([BETTER]),
        chosen=np.array([1.0]),
        rejected=np.array([1.0]),
        probabilities=np.array([[0.2, 0.2, 0.6]]),
    )
    assert one.right().tolist() == [False]


def test_ties_alone_have_no_decisive_accuracy(pairs):
    ties = ScoredPairs(
        kinds=("a",),
        labels=np.array([TIE]),
        chosen=np.array([1.0]),
        rejected=np.array([0.0]),
        probabilities=np.array([[0.1, 0.1, 0.8]]),
    ).summary()
    assert ties["accuracy_decisive"] is ties["roc_area"] is ties["calibration_error"] is None
    assert ties["accuracy"] == 1
    assert share(np.zeros(0, bool)) == (None, None)


def test_calibration_by_hand(pairs):
    np.testing.assert_allclose(pairs.confidence(), [8 / 9, 0.75, 0.75, 7 / 8])
    rows = reliability(pairs.confidence(), pairs.right())
    assert [(row["from"], row["pairs"], row["right"]) for row in rows] == [
        (0.7, 2, 1.0),
        (0.8, 2, 0.5),
    ]
    wrong_by = 2 / 4 * 0.25 + 2 / 4 * ((8 / 9 + 7 / 8) / 2 - 0.5)
    assert expected_error(rows) == pytest.approx(wrong_by, abs=1e-4)
    assert expected_error([]) is None
    sure = reliability(np.array([1.0, 0.05]), np.array([True, False]))
    assert [(row["from"], row["to"]) for row in sure] == [(0.0, 0.1), (0.9, 1.0)]


def test_scores_by_strength():
    falling = np.array([[1.0, 0.5, 0.0], [2.0, 1.5, -1.0], [9.0, np.nan, 0.0]])
    strengths = Strengths(
        strengths=(0.0, 0.5, 1.0),
        scores={"jitter": falling, "freeze": falling[:, [0, 2, 1]], "still": falling[2:]},
    )
    assert strengths.means("jitter").tolist() == [1.5, 1.0, -0.5]
    assert np.isnan(strengths.means("still")).all()
    found = strengths.summary()
    assert found["spearman"] == {"jitter": 1.0, "freeze": 0.5, "still": None, "all": 0.866}
    assert found["score"]["all"] == [1.5, 0.25, 0.25]
    assert found["score"]["still"] == [None] * 3


def test_agreement_counts_what_the_judge_is_clear_about():
    motion = np.array([[0.9, 0.5, 0.45], [0.2, 0.8, 0.8]])
    scores = np.array([[2.0, 1.0, 3.0], [0.0, 1.0, -1.0]])
    found = agreement(scores, motion, least=0.1)
    # Clear are 0 > 1 and 0 > 2 of the first prompt, 1 > 0 and 2 > 0 of the second.
    assert (found["films"], found["pairs"], found["unclear"]) == (6, 4, 2)
    assert found["same"] == 0.5
    assert agreement(scores, np.zeros((2, 3)), least=0.1)["same"] is None


def test_the_plot(pairs, tmp_path):
    table = np.array([[1.0, 0.5, 0.0]])
    strengths = Strengths(strengths=(0.0, 0.5, 1.0), scores={"jitter": table, "freeze": table})
    left_out = {"jitter": {"accuracy_decisive": 0.7}, "freeze": {"accuracy_decisive": None}}
    plot_reward(tmp_path / "reward.png", pairs, strengths, left_out, title="Reward")
    assert iio.imread(tmp_path / "reward.png").shape[1] == 1660
