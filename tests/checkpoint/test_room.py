"""Room for checkpoints is asked for before a run begins."""

import os
import shutil

import jax
import jax.numpy as jnp
import pytest

from skyreels_jax.checkpoint import check_room
from skyreels_jax.core.errors import UserError

STATE = {"params": jax.ShapeDtypeStruct((1000, 1000), jnp.float32), "step": jnp.int32(0)}


def disk(monkeypatch, free):
    """Makes it a disk with `free` bytes left."""
    usage = shutil.disk_usage("/")._replace(free=free)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)


def test_nothing_stays(tmp_path):
    check_room(tmp_path / "run" / "checkpoints", STATE, 3)
    assert os.listdir(tmp_path) == []


def test_a_small_disk(tmp_path, monkeypatch):
    one = 4_000_004
    disk(monkeypatch, 3 * one)
    check_room(tmp_path, STATE, 3)
    disk(monkeypatch, 3 * one - 1)
    said = "needs 0.012 GB more for 3 checkpoints of 0.004 GB, 0.012 GB are free; make room"
    with pytest.raises(UserError, match=said):
        check_room(tmp_path, STATE, 3)
    (tmp_path / "500").mkdir()  # one that is there already, and has its room
    check_room(tmp_path, STATE, 3)
