"""The rule that ends a stage, on synthetic curves."""

import json

import jax.numpy as jnp
import numpy as np
import pytest

from skyreels_jax.core.config import from_dict
from skyreels_jax.core.errors import UserError
from skyreels_jax.training.plateau import Plateau, Watch

RULE = Plateau(window=20, patience=2, gain=0.01, floor=0.6)


def step_of(value, *, skipped=0):
    """The metrics of a step."""
    named = {"implicit_accuracy": value, "other": 0, "skipped": skipped}
    return {name: jnp.float32(number) for name, number in named.items()}


def ends_at(curve, rule=RULE, *, noise=0.0, seed=0):
    """The step at which the rule ends a run with these values, or None."""
    values = curve + noise * np.random.default_rng(seed).normal(size=len(curve))
    watch = Watch(rule, [])
    for step, value in enumerate(values):
        if watch.over():
            return step
        watch.add(step_of(value))
    return None


def saturating(steps=600, *, top=0.95, rate=80.0):
    return top - (top - 0.5) * np.exp(-np.arange(steps) / rate)


@pytest.mark.parametrize("noise", [0.0, 0.03])
def test_a_saturating_curve_ends_when_it_is_flat(noise):
    end = ends_at(saturating(), noise=noise)
    # By then the curve rises less than 0.01 in two windows of 20 steps: its slope is under 2.5e-4.
    assert end is not None and end % 20 == 0
    assert 200 < end < 400 and saturating()[end] > 0.9


def test_a_rising_curve_does_not_end():
    assert ends_at(np.linspace(0.5, 1.0, 600), noise=0.003) is None


def test_a_flat_curve_that_never_rose_does_not_end():
    assert ends_at(np.full(600, 0.5), noise=0.05) is None


def test_a_curve_that_rises_after_a_warm_up_is_waited_for():
    late = np.concatenate([np.full(200, 0.5), saturating()])
    assert ends_at(late) == ends_at(saturating()) + 200


def test_one_bad_window_is_not_a_plateau():
    curve = np.linspace(0.6, 0.9, 300)
    curve[100:120] = 0.55
    assert ends_at(curve) is None


def test_a_falling_curve_ends():
    assert ends_at(np.concatenate([np.linspace(0.5, 0.8, 100), np.linspace(0.8, 0.5, 100)])) == 140


def test_a_skipped_step_has_no_value_whatever_it_says():
    watch = Watch(RULE, [])
    for skipped in (0, 1, 0):
        watch.add(step_of(0.0, skipped=skipped))
    np.testing.assert_array_equal(watch.values(), [0.0, np.nan, 0.0])


def test_values_that_are_not_finite_count_for_nothing():
    curve = saturating()
    holes = curve.copy()
    holes[::7] = np.nan
    assert ends_at(holes) == pytest.approx(ends_at(curve), abs=20)
    assert ends_at(np.full(100, np.nan)) is None


def test_a_watch_goes_on_where_it_was():
    curve = saturating()
    for cut in (1, 57, 100):
        first = Watch(RULE, [])
        for value in curve[:cut]:
            first.add(step_of(value))
        watch = Watch(RULE, json.loads(json.dumps(first.values())))
        step = cut
        while not watch.over():
            watch.add(step_of(curve[step]))
            step += 1
        assert step == ends_at(curve)


def test_without_a_rule_nothing_is_kept():
    watch = Watch(None, [])
    watch.add({})
    assert watch.values() == [] and not watch.over()


@pytest.mark.parametrize("bad", [{"window": 0}, {"patience": 0}, {"gain": -1.0}])
def test_bad_values(bad):
    with pytest.raises(UserError, match="a plateau needs"):
        from_dict(Plateau, bad)
