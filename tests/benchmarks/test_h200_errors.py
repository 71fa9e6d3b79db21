"""The check of correctness in benchmarks/h200: what is wrong fails, NaN wherever it is."""

import importlib.util
import pathlib

import numpy as np
import pytest

PATH = pathlib.Path(__file__).parents[2] / "benchmarks" / "h200" / "errors.py"
MASKED = -1e30


@pytest.fixture(scope="module")
def relative_errors():
    spec = importlib.util.spec_from_file_location("h200_errors", PATH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.relative_errors


def arrays() -> dict:
    rng = np.random.default_rng(0)
    made = {name: rng.standard_normal(100).astype(np.float32) for name in ("out", "lse", "dq")}
    made["lse"][:10] = MASKED
    return made


def test_errors_are_by_the_norm(relative_errors):
    truth = arrays()
    close = truth | {"dq": truth["dq"] * 1.004}
    found = relative_errors(close, truth, bound=0.01, masked=MASKED)
    assert found == {"out": 0.0, "lse": 0.0, "dq": pytest.approx(0.004, rel=1e-3)}


@pytest.mark.parametrize("name", ["out", "lse", "dq"])
@pytest.mark.parametrize(("place", "value"), [(50, np.nan), (0, np.nan), (50, np.inf), (50, 30.0)])
def test_what_is_wrong_in_one_place_fails(relative_errors, name, place, value):
    """NaN also behind arrays that are right."""
    truth = arrays()
    wrong = truth[name].copy()
    wrong[place] = value
    with pytest.raises(ArithmeticError, match=f"not below 0.01: .'{name}'"):
        relative_errors(truth | {name: wrong}, truth, bound=0.01, masked=MASKED)


@pytest.mark.parametrize(("place", "value"), [(5, 1e-9), (50, MASKED)])
def test_no_value_belongs_where_the_truth_has_none(relative_errors, place, value):
    truth = arrays()
    wrong = truth["lse"].copy()
    wrong[place] = value
    with pytest.raises(ArithmeticError, match="'lse': inf"):
        relative_errors(truth | {"lse": wrong}, truth, bound=0.01, masked=MASKED)


def test_where_nothing_is_expected_nothing_may_be(relative_errors):
    truth = {"dq": np.zeros(4, np.float32)}
    assert relative_errors(truth, truth, bound=0.01, masked=MASKED) == {"dq": 0.0}
    with pytest.raises(ArithmeticError):
        relative_errors({"dq": np.ones(4)}, truth, bound=0.01, masked=MASKED)
