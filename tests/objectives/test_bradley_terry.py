"""Bradley-Terry with ties against its closed form, its gradient, and its limits."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from skyreels_jax.core.errors import UserError
from skyreels_jax.core.labels import BETTER, LABELS, TIE, WORSE
from skyreels_jax.objectives.base import report
from skyreels_jax.objectives.reward import BradleyTerry, log_probabilities

DISCARDED = -1


class Brightness(nnx.Module):
    """score = scale * mean pixel; keeps what it was called with."""

    def __init__(self, scale):
        self.scale = nnx.Param(jnp.asarray(scale))

    def __call__(self, video):
        assert video.ndim == 5
        return self.scale[...] * video.mean(axis=(1, 2, 3, 4))


def batch(chosen, rejected, label):
    """Films of one brightness each."""
    sides = {
        name: jnp.asarray(values, jnp.float32)[:, None, None, None, None]
        * jnp.ones((1, 3, 2, 2, 3))
        for name, values in (("chosen", chosen), ("rejected", rejected))
    }
    return {**sides, "label": jnp.asarray(label, jnp.int32)}


def test_labels_are_those_of_the_records():
    assert [LABELS[i] for i in (BETTER, WORSE, TIE)] == ["better", "worse", "tie"]


@pytest.mark.parametrize("k", [1.5, 5.0, 40.0])
def test_probabilities_are_those_of_the_paper_and_sum_to_one(k):
    difference = np.linspace(-12, 12, 97)
    found = np.exp(np.asarray(log_probabilities(jnp.asarray(difference, jnp.float32), k=k)))
    a, b = np.exp(difference), np.ones(97)
    better, worse = a / (a + k * b), b / (b + k * a)
    tie = (k**2 - 1) * a * b / ((a + k * b) * (k * a + b))
    np.testing.assert_allclose(found, np.stack([better, worse, tie], axis=1), rtol=2e-5)
    np.testing.assert_allclose(found.sum(axis=1), 1, rtol=1e-5)


def test_the_loss_is_the_closed_form():
    chosen, rejected = [0.4, -1.0, 2.0, 0.3], [0.1, 0.5, 2.5, -0.3]
    label = [BETTER, WORSE, TIE, BETTER]
    out = BradleyTerry()(Brightness(2.0), batch(chosen, rejected, label), jax.random.key(0))

    def log_sigmoid(x):
        return -math.log1p(math.exp(-x))

    d = [2 * (a - b) for a, b in zip(chosen, rejected, strict=True)]
    k = math.log(5)
    expected = [
        -log_sigmoid(d[0] - k),
        -log_sigmoid(-d[1] - k),
        -log_sigmoid(d[2] - k) - log_sigmoid(-d[2] - k) - math.log(24),
        -log_sigmoid(d[3] - k),
    ]
    assert float(out.total) == pytest.approx(sum(expected), rel=1e-5)
    assert float(out.weight) == 4


def test_discarded_pairs_count_for_nothing():
    objective, model, key = BradleyTerry(), Brightness(1.0), jax.random.key(0)
    whole = batch([1.0, 0.2, 9.0, 0.5], [0.0, 0.7, -9.0, 0.4], [BETTER, TIE, DISCARDED, WORSE])
    kept = jax.tree.map(lambda leaf: leaf[jnp.array([0, 1, 3])], whole)
    first, second = objective(model, whole, key), objective(model, kept, key)
    assert first.weight == second.weight == 3
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), first, second)
    nothing = objective(model, {**whole, "label": jnp.full(4, DISCARDED)}, key)
    assert nothing.weight == 0 and nothing.total == 0
    assert "accuracy_decisive" not in report(nothing.metrics)
    gradient = nnx.grad(lambda m: objective(m, {**whole, "label": jnp.full(4, 7)}, key).total)
    assert float(gradient(model)["scale"][...]) == 0


def test_metrics_by_hand():
    # Differences: 3 (right), 1 (right way, too small), -2 (wrong way), 0.5 (a tie), 4 (no tie).
    chosen, label = [3.0, 1.0, -2.0, 0.5, 4.0], [BETTER, BETTER, BETTER, TIE, TIE]
    out = BradleyTerry()(Brightness(1.0), batch(chosen, [0.0] * 5, label), jax.random.key(0))
    found = report({name: value / out.weight for name, value in out.metrics.items()})
    assert found["accuracy"] == pytest.approx(2 / 5)
    assert found["accuracy_decisive"] == pytest.approx(2 / 3)
    assert found["margin"] == pytest.approx((3 + 1 - 2) / 3)
    assert found["score"] == pytest.approx(sum(chosen) / 10)


def test_gradients_are_finite_differences():
    objective = BradleyTerry()
    label = jnp.asarray([BETTER, WORSE, TIE, DISCARDED], jnp.int32)
    scores = jnp.asarray([[0.7, -0.4], [1.1, 0.9], [-0.6, 1.3], [2.0, 0.0]], jnp.float32)

    def loss(scores):
        return objective.judged(scores[:, 0], scores[:, 1], label).total

    found = np.asarray(jax.grad(loss)(scores))
    for index in np.ndindex(scores.shape):
        step = jnp.zeros_like(scores).at[index].set(1e-2)
        slope = (float(loss(scores + step)) - float(loss(scores - step))) / 2e-2
        assert found[index] == pytest.approx(slope, abs=2e-4), index


@pytest.mark.parametrize("size", [50.0, 1e4, 1e30])
def test_large_differences_are_stable(size):
    label = jnp.asarray([BETTER, WORSE, TIE], jnp.int32)

    def loss(difference):
        return BradleyTerry().judged(difference, jnp.zeros(3), label).total

    for sign in (1, -1):
        difference = sign * size * jnp.ones(3)
        value, slope = jax.value_and_grad(loss)(difference)
        # One label is certain, the two others cost the difference.
        assert float(value) == pytest.approx(2 * size, rel=0.1)
        np.testing.assert_allclose(np.abs(slope), [sign < 0, sign > 0, 1], atol=1e-6)


def test_half_precision_scores_are_judged_in_single():
    sides = {name: leaf.astype(jnp.bfloat16) for name, leaf in batch([3.0], [0.0], [0]).items()}
    model = Brightness(jnp.bfloat16(1))
    out = BradleyTerry()(model, {**sides, "label": jnp.asarray([BETTER])}, jax.random.key(0))
    assert out.total.dtype == jnp.float32


@pytest.mark.parametrize("k", [1.0, 0.0, -5.0, math.inf])
def test_k_must_leave_room_for_ties(k):
    with pytest.raises(UserError, match="must be more than 1"):
        BradleyTerry(k=k)
