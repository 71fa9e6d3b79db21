"""Concepts in their target shares, one frame rate only, and what is said when that cannot be."""

import numpy as np
import pytest

from skyreels_jax.core.config import from_dict
from skyreels_jax.core.errors import UserError
from skyreels_jax.data.selection import Balance, Group, describe, grouped, keep_rate

ATTRIBUTES = {"shape": ("ring", "square", "triangle"), "colour": ("red", "blue")}
VALUES = ["square"] * 6 + ["ring"] * 2 + ["triangle"] * 4


def test_no_shares_are_equal_shares():
    targets = Balance(attribute="shape").targets(ATTRIBUTES)
    assert targets == dict.fromkeys(ATTRIBUTES["shape"], 1 / 3)


def test_shares_are_as_stated_and_zero_leaves_out():
    shares = {"ring": 0.25, "square": 0.75, "triangle": 0}
    balance = from_dict(Balance, {"attribute": "shape", "shares": shares})
    assert balance.targets(ATTRIBUTES) == {"ring": 0.25, "square": 0.75}
    groups = grouped(VALUES, balance.targets(ATTRIBUTES), np.arange(12))
    assert [group.name for group in groups] == ["ring", "square"]
    np.testing.assert_array_equal(groups[0].indices, [6, 7])
    np.testing.assert_array_equal(groups[1].indices, range(6))


def test_groups_hold_only_what_was_kept():
    groups = grouped(VALUES, {"ring": 0.5, "triangle": 0.5}, np.array([0, 7, 9, 11]))
    assert [group.indices.tolist() for group in groups] == [[7], [9, 11]]
    with pytest.raises(UserError, match="ring has the share 0.5, but no clip shows it"):
        grouped(VALUES, {"ring": 0.5, "triangle": 0.5}, np.array([0, 9]))


def test_one_line_says_what_is_drawn():
    groups = [Group("ring", 0.5, np.arange(10)), Group("square", 0.5, np.arange(30))]
    assert describe(groups) == (
        "ring 10 clips, 50.0% of draws, weight 2.00; square 30 clips, 50.0% of draws, weight 0.67"
    )


def test_one_frame_rate():
    rates = np.array([12, 16, 12, 16, 16])
    assert keep_rate(rates, 16).tolist() == [1, 3, 4]
    assert keep_rate(rates, 0).tolist() == [0, 1, 2, 3, 4]
    with pytest.raises(UserError, match="no clip has 24 frames a second; there are 2 of 12, 3 of"):
        keep_rate(rates, 24)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"attribute": "shap"}, "'shap' does not exist; did you mean 'shape'?"),
        ({"attribute": "shape", "shares": {"rings": 1.0}}, "no shape is 'rings'; did you mean"),
        ({"attribute": "shape", "shares": {"ring": 1.0}}, "missing: square, triangle"),
        ({"attribute": "colour", "shares": {"red": 0.5, "blue": 0.4}}, "add up to 1, not 0.9"),
        ({"attribute": "colour", "shares": {"red": 1.5, "blue": -0.5}}, "red has 1.5; a share is"),
        ({"attribute": "colour", "shares": {"red": "x", "blue": 1}}, "red has 'x'; a share is in"),
        ({"shares": {"red": 1.0}}, "need a balance.attribute"),
        ({"atribute": "shape"}, "no field 'atribute'; did you mean 'attribute'?"),
    ],
)
def test_what_does_not_exist_is_refused(values, message):
    with pytest.raises(UserError) as error:
        from_dict(Balance, values).targets(ATTRIBUTES)
    assert message in str(error.value)
