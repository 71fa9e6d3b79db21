"""Parameters of a checkpoint, one part at a time."""

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest

from skyreels_jax.checkpoint import (
    CheckpointParams,
    Checkpoints,
    Leaf,
    find_checkpoint,
    manager,
    restore_params,
    write_checkpoint,
    writer,
)
from skyreels_jax.checkpoint import chunks as chunking
from skyreels_jax.core.errors import UserError
from skyreels_jax.core.tree import named_leaves

SHAPES = {
    "stack": (6, 4, 5),
    "fused": (3, 2, 4, 4),
    "rows": (64, 8),
    "vector": (7,),
    "one": (),
}


def tree(scale=1):
    random = np.random.default_rng(0)
    arrays = {
        name: np.asarray(scale * random.normal(size=shape), np.float32)
        for name, shape in SHAPES.items()
    }
    return {"part": {**arrays, "half": jnp.asarray(arrays["stack"], jnp.bfloat16)}}


def assert_holds(params, expected):
    leaves = dict(named_leaves(expected))
    assert set(params.leaves) == set(leaves)
    for path, leaf in leaves.items():
        whole = params.read(path)
        assert whole.dtype == params.dtype(path) == leaf.dtype
        np.testing.assert_array_equal(whole, leaf)
        for index in np.ndindex(leaf.shape[:2]):
            for depth in range(1, len(index) + 1):
                part = params.read(path, index[:depth])
                np.testing.assert_array_equal(part, leaf[index[:depth]], err_msg=path)


@pytest.mark.parametrize("chunks", ["as now", "small", "as before"])
def test_all_parts_of_all_leaves(tmp_path, monkeypatch, chunks):
    if chunks == "small":
        monkeypatch.setattr(chunking, "CHUNK_BYTES", 64)
    if chunks == "as before":
        monkeypatch.setattr(manager, "chunked", lambda leaf: ocp.SaveArgs())
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        state = {"params": tree(), "ema": tree(2), "opt_state": [tree(3)]}
        checkpoints.save(5, state, data={}, config={})
    checkpoint = find_checkpoint(tmp_path)
    assert checkpoint == find_checkpoint(checkpoint) == tmp_path / "checkpoints" / "5"
    assert_holds(CheckpointParams(checkpoint), tree(2))
    raw = CheckpointParams(checkpoint, weights="raw")
    assert_holds(raw, tree())
    rows = {"as now": 64, "small": 4, "as before": 64}[chunks]
    assert raw.leaves["part/rows"].storage.chunk_shape[0] == rows
    layers = {"as now": 1, "small": 1, "as before": 6}[chunks]
    assert raw.leaves["part/stack"].storage.chunk_shape[0] == layers
    assert_holds(raw.within("part"), tree()["part"])


def test_there_must_be_a_checkpoint_with_such_weights(tmp_path):
    with pytest.raises(UserError, match="no checkpoint under .* yet"):
        find_checkpoint(tmp_path / "mistyped")
    assert not (tmp_path / "mistyped").exists()  # else it would be a run from now on
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        checkpoints.save(5, {"params": tree(), "ema": None}, data={}, config={})
    assert_holds(CheckpointParams(find_checkpoint(tmp_path)), tree())
    with pytest.raises(UserError, match="5 holds no averaged weights .ema.; legal: raw"):
        CheckpointParams(find_checkpoint(tmp_path), weights="ema")


@pytest.mark.parametrize("size", [1 << 26, 100])
def test_leaves_that_are_read_while_they_are_written(tmp_path, monkeypatch, size):
    monkeypatch.setattr(chunking, "CHUNK_BYTES", size)
    monkeypatch.setattr(writer, "PART_BYTES", size)
    reads = []

    def leaf(path, array):
        def read(index):
            reads.append((path, index))
            return np.asarray(array)[index]

        return Leaf(shape=array.shape, dtype=np.dtype(array.dtype), read=read)

    lazily = jax.tree_util.tree_map_with_path(leaf, tree())
    write_checkpoint(tmp_path / "checkpoints", lazily, config={"kind": "ours"})
    assert len(reads) == len(set(reads)) == 6 + 3 + 6 + 3  # layers; rows and vectors at once
    assert_holds(CheckpointParams(find_checkpoint(tmp_path)), tree())
    stored = restore_params(tmp_path, tree())
    jax.tree.map(np.testing.assert_array_equal, stored, tree())
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        assert checkpoints.config(0) == {"kind": "ours"}
