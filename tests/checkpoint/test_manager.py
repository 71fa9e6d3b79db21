"""Checkpoints: exact round trips of any state, and parameters alone."""

import time
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from skyreels_jax.checkpoint import CheckpointParams, Checkpoints, restore_params
from skyreels_jax.core.errors import UserError
from skyreels_jax.core.version import code_version
from skyreels_jax.testing.raw_state import raw_state


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


def test_a_state_may_be_donated_while_it_is_written(tmp_path):
    """Those steps take milliseconds, 64 MB take longer to write."""
    state = State({"kernel": jnp.zeros(16 << 20)}, None, jnp.int32(0))
    train = jax.jit(lambda state: jax.tree.map(lambda x: x + 1, state), donate_argnums=0)
    with Checkpoints(tmp_path / "checkpoints", keep=2) as checkpoints:
        for step in range(1, 4):
            state = train(state)
            checkpoints.save(step, state, data={}, config={})
            writing = not (tmp_path / "checkpoints" / str(step)).exists()
            for _ in range(5):
                state = train(state)
            assert writing, "it was not written in the background"
    for step, count in ((2, 7), (3, 13)):
        got = raw_state(tmp_path / "checkpoints" / str(step))
        assert got["count"] == count
        np.testing.assert_array_equal(got["params"]["kernel"], np.float32(count))


def test_what_devices_share_is_read_without_them(tmp_path):
    mesh = jax.make_mesh((8,), ("fsdp",), axis_types=(jax.sharding.AxisType.Auto,))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("fsdp"))
    values = np.arange(16, dtype=np.float32)
    state = State({"kernel": jax.device_put(values, sharding)}, None, jnp.int32(1))
    save(tmp_path / "checkpoints", state)
    got = raw_state(tmp_path)["params"]["kernel"]
    assert isinstance(got, np.ndarray)
    np.testing.assert_array_equal(got, values)


def test_the_code_is_told_by_those_who_write(tmp_path):
    save(tmp_path / "reader", State(params(), None, jnp.int32(1)))
    with Checkpoints(tmp_path / "writer", keep=1) as checkpoints:
        checkpoints.save(5, params(), data={}, config={})
    for name, code in (("reader", None), ("writer", code_version())):
        with Checkpoints(tmp_path / name) as checkpoints:
            assert checkpoints.code(5) == code


def test_a_writer_removes_what_a_killed_one_left(tmp_path):
    """A reader must not: it may be that one that still writes."""
    save(tmp_path, State(params(), None, jnp.int32(1)))
    unfinished = tmp_path / "7.orbax-checkpoint-tmp"
    unfinished.mkdir()
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.latest() == 5
    assert unfinished.exists()
    with Checkpoints(tmp_path, keep=1) as checkpoints:
        assert checkpoints.latest() == 5
        until = time.monotonic() + 30  # Orbax does it in the background
        while unfinished.exists() and time.monotonic() < until:
            time.sleep(0.01)
    assert not unfinished.exists()


def test_a_lost_device_is_not_waited_for(tmp_path):
    with pytest.raises(jax.errors.JaxRuntimeError), Checkpoints(tmp_path, keep=1) as checkpoints:
        checkpoints._manager.close = checkpoints._manager.wait_until_finished = pytest.fail
        raise jax.errors.JaxRuntimeError("peer closed the connection")


def test_parameters_alone_averaged_if_there_are_averages(tmp_path):
    save(tmp_path / "a" / "checkpoints", State(params(), params(3.0), jnp.int32(1)))
    save(tmp_path / "b" / "checkpoints", State(params(), None, jnp.int32(1)))
    abstract = jax.eval_shape(params)
    for folder, scale in (("a", 3.0), ("b", 1.0), ("b/checkpoints/5", 1.0)):
        got = restore_params(tmp_path / folder, abstract)
        assert jax.tree.structure(got) == jax.tree.structure(params())
        jax.tree.map(np.testing.assert_array_equal, got, params(scale))


def test_parameters_are_read_one_at_a_time_to_where_they_are_to_be(tmp_path, monkeypatch):
    mesh = jax.make_mesh((8,), ("fsdp",), axis_types=(jax.sharding.AxisType.Auto,))
    divided = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(None, "fsdp"))
    values = {name: np.random.default_rng(0).random((3, 16), np.float32) for name in "abc"}
    save(tmp_path / "checkpoints", State(values, None, jnp.int32(1)))
    like = {name: jax.ShapeDtypeStruct((3, 16), np.float32, sharding=divided) for name in "abc"}
    done, read, place = [], CheckpointParams.part, jax.make_array_from_callback

    def noted_part(self, path, index):
        found = read(self, path, index)
        done.append(f"read {found.shape} of {self._root}/{path}")
        return found

    def noted_place(*args):
        done.append("place")
        return place(*args)

    monkeypatch.setattr(CheckpointParams, "part", noted_part)
    monkeypatch.setattr(CheckpointParams, "read", pytest.fail)  # no leaf whole
    monkeypatch.setattr(jax, "make_array_from_callback", noted_place)
    got = restore_params(tmp_path, like)
    assert done == [
        said for name in "abc" for said in ("place", *[f"read (3, 2) of params/{name}"] * 8)
    ]
    for name, leaf in got.items():
        assert leaf.sharding == divided
        np.testing.assert_array_equal(leaf, values[name])


def test_missing_and_foreign_checkpoints(tmp_path):
    with pytest.raises(UserError, match="no checkpoint"):
        restore_params(tmp_path / "empty", params())
    assert not (tmp_path / "empty").exists()
    save(tmp_path / "checkpoints", State(params(), None, jnp.int32(1)))
    for other in (
        {"layers": {0: {"kernel": jnp.zeros((2, 3))}}},
        {"layers": {**params()["layers"]}},
    ):
        if len(other["layers"]) == 2:
            other["layers"][1] = {"bias": jnp.zeros(4)}
        with pytest.raises(UserError, match="layers/1/bias"):
            restore_params(tmp_path, other)
