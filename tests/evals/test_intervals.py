"""The bootstrap's intervals."""

import json

import numpy as np
import pytest

from skyreels_jax.evals.intervals import bootstrap


def test_the_interval_of_a_mean_is_the_normal_one():
    values = np.random.default_rng(1).normal(3.0, 2.0, size=400)
    found = bootstrap(lambda rows: values[rows].mean(-1), 400)
    assert found.value == pytest.approx(values.mean())
    error = 1.96 * values.std() / 20
    assert found.low == pytest.approx(found.value - error, abs=0.03)
    assert found.high == pytest.approx(found.value + error, abs=0.03)
    assert bootstrap(lambda rows: values[rows].mean(-1), 400) == found


def test_what_is_no_number_has_no_interval():
    found = bootstrap(lambda rows: np.full(rows.shape[:-1], np.nan), 3)
    assert str(found) == "none"
    told = found.summary()
    assert told == {"value": None, "low": None, "high": None}
    json.dumps(told, allow_nan=False)
    # Draws without the one row that is not 0 have no ratio, and are left out.
    base = np.array([0.0, 0.0, 2.0])
    with np.errstate(invalid="ignore"):
        ratio = bootstrap(lambda rows: base[rows].sum(-1) / base[rows].sum(-1), 3)
    assert (ratio.value, ratio.low, ratio.high) == (1, 1, 1)
    assert str(ratio) == "+1.0 (+1.0 to +1.0)"
