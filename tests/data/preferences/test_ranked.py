"""Best against worst: which films, which prompts are dropped, what the objective is given."""

import numpy as np
import pytest

from skyreels_jax.core.errors import UserError
from skyreels_jax.data.loader import pipeline
from skyreels_jax.data.preferences.ranked import (
    RankedPairs,
    ToldPair,
    best_against_worst,
    not_worse,
)

SCORES = np.array([[1.0, 3.0, 2.0], [5.0, 5.0, 5.0], [0.0, 0.0, -1.0]])
NULL = {"input_ids": np.zeros(4, np.int32), "length": np.int32(1)}


def ranked():
    latents = np.arange(9, dtype=np.float16)[:, None, None, None, None] * np.ones((2, 1, 1, 3))
    captions = {
        "input_ids": np.arange(12, dtype=np.int32).reshape(3, 4),
        "length": np.array([2, 3, 4], np.int32),
    }
    return RankedPairs(
        latents=latents.astype(np.float16), captions=captions, ranking=best_against_worst(SCORES)
    )


def test_the_best_stands_against_the_worst_and_ties_are_dropped_and_counted():
    ranking = best_against_worst(SCORES)
    np.testing.assert_array_equal(ranking.chosen, [1, 6])
    np.testing.assert_array_equal(ranking.rejected, [0, 8])
    np.testing.assert_array_equal(ranking.prompt, [0, 2])
    assert ranking.dropped == 1


def test_a_film_that_is_worse_in_something_else_is_not_preferred():
    scores = np.array([[3.0, 2.0, 1.0], [1.0, 2.0, 3.0]])
    axes = {
        "adherence": np.array([[0.5, 0.5, 0.6], [0.1, 0.5, 0.9]]),
        "quality": np.array([[20.0, 21.0, 22.0], [20.0, 17.0, 14.0]]),
    }
    legal = not_worse(axes, {"adherence": 0.05, "quality": 1.0})
    # In the first prompt only the neighbours are close enough in quality, of which film 1 is worse
    # than film 2 in adherence; in the second each better film has a quality that is too low.
    ranking = best_against_worst(scores, legal)
    assert (ranking.chosen.tolist(), ranking.rejected.tolist()) == ([0], [1])
    assert (ranking.prompt.tolist(), ranking.dropped) == ([0], 1)
    with pytest.raises(UserError, match="or the better ones are worse in what is not motion"):
        best_against_worst(scores[1:], legal[1:])


def test_rankings_are_invariant_to_the_scale_of_the_reward():
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(20, 8))
    for one, other in zip(
        best_against_worst(scores), best_against_worst(3 * scores - 7), strict=True
    ):
        np.testing.assert_array_equal(one, other)


def test_no_pair_is_an_error():
    with pytest.raises(UserError, match="for each of 2 prompts all 3 films have the same score"):
        best_against_worst(np.ones((2, 3)))


def test_pairs_are_what_the_objective_is_given():
    pairs = ranked()
    assert len(pairs) == 2
    sample = ToldPair(NULL).random_map(pairs[1], np.random.default_rng(0))
    assert (sample["chosen"] == 6).all() and (sample["rejected"] == 8).all()
    assert {side: sample[side].dtype.name for side in ("chosen", "rejected")} == dict.fromkeys(
        ("chosen", "rejected"), "float32"
    )
    np.testing.assert_array_equal(sample["cond"]["input_ids"], [8, 9, 10, 11])
    assert (sample["cond"]["length"], sample["start"], sample["given"]) == (4, 0, 0)
    np.testing.assert_array_equal(sample["null_cond"]["input_ids"], NULL["input_ids"])


def test_fewer_pairs_than_a_batch_come_again():
    batches = iter(pipeline(ranked(), ToldPair(NULL), batch=4, seed=0))
    batch = next(batches)
    assert batch["chosen"].shape == (4, 2, 1, 1, 3)
    assert sorted(batch["chosen"][:, 0, 0, 0, 0].tolist()) == [1, 1, 6, 6]
    assert batch["null_cond"]["input_ids"].shape == (4, 4)
