"""Checkpoints: exact round trips of any state, and parameters alone."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from skyreels_jax.checkpoint import Checkpoints, restore_params
from skyreels_jax.core.errors import UserError


class State(NamedTuple):
    params: dict
    ema: dict | None
    count: jax.Array


def params(scale=1.0):
    values = jnp.arange(6, dtype=jnp.float32).reshape(2, 3)
    return {"layers": {0: {"kernel": scale * values}, 1: {"bias": scale * jnp.ones(3)}}}


def save(folder, state, step=5):
    with Checkpoints(folder) as checkpoints:
        checkpoints.save(step, state, data={"next": 3}, config={"a": [1, {"b": None}]})


def test_round_trip(tmp_path):
    state = State(params(), None, jnp.int32(9))
    save(tmp_path, state)
    with Checkpoints(tmp_path) as checkpoints:
        got, data = checkpoints.restore(5, state)
        assert checkpoints.config(5) == {"a": [1, {"b": None}]}
    assert data == {"next": 3}
    assert jax.tree.structure(got) == jax.tree.structure(state)
    jax.tree.map(np.testing.assert_array_equal, got, state)


def test_a_step_is_written_once(tmp_path):
    save(tmp_path, State(params(), None, jnp.int32(1)))
    save(tmp_path, State(params(2.0), None, jnp.int32(1)))
    with Checkpoints(tmp_path) as checkpoints:
        got, _ = checkpoints.restore(5, State(params(), None, jnp.int32(1)))
    jax.tree.map(np.testing.assert_array_equal, got.params, params())


def test_parameters_alone_averaged_if_there_are_averages(tmp_path):
    save(tmp_path / "a", State(params(), params(3.0), jnp.int32(1)))
    save(tmp_path / "b", State(params(), None, jnp.int32(1)))
    abstract = jax.eval_shape(params)
    for folder, options, scale in (("a", {}, 3.0), ("a", {"ema": False}, 1.0), ("b", {}, 1.0)):
        got = restore_params(tmp_path / folder, abstract, **options)
        assert jax.tree.structure(got) == jax.tree.structure(params())
        jax.tree.map(np.testing.assert_array_equal, got, params(scale))


def test_parameters_may_be_adapted(tmp_path):
    save(tmp_path, State(params(), params(3.0), jnp.int32(1)))

    def doubled(stored):
        return {"layers": {0: jax.tree.map(lambda leaf: 2 * leaf, stored["layers"]["0"])}}

    got = restore_params(tmp_path, {"layers": {0: params()["layers"][0]}}, adapt=doubled)
    jax.tree.map(np.testing.assert_array_equal, got, {"layers": {0: params(6.0)["layers"][0]}})


def test_missing_and_foreign_checkpoints(tmp_path):
    with pytest.raises(UserError, match="no checkpoint"):
        restore_params(tmp_path / "empty", params())
    save(tmp_path, State(params(), None, jnp.int32(1)))
    for other in (
        {"layers": {0: {"kernel": jnp.zeros((2, 3))}}},
        {"layers": {**params()["layers"]}},
    ):
        if len(other["layers"]) == 2:
            other["layers"][1] = {"bias": jnp.zeros(4)}
        with pytest.raises(UserError, match="layers/1/bias"):
            restore_params(tmp_path, other)
