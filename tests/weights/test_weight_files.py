"""Weight files: safetensors whole and in shards, PyTorch checkpoints, and damaged files."""

import builtins
import dataclasses
import json

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
import torch
from safetensors.torch import load_file

from skyreels_jax.core.errors import UserError
from skyreels_jax.weights import export
from skyreels_jax.weights.export import LazyTensor, lazy
from skyreels_jax.weights.pth import write_pth
from skyreels_jax.weights.reader import open_source
from skyreels_jax.weights.writer import write_safetensors

ARRAYS = {
    "a": np.arange(12, dtype=np.float32).reshape(3, 4).T,  # not contiguous
    "b.weight": np.linspace(-1, 1, 8).astype(ml_dtypes.bfloat16),
    "c": np.ones((2, 1, 3), np.float16),
    "scalar": np.array(3.0, np.float32),
    "steps": np.arange(3),
}
TENSORS = [lazy(name, array) for name, array in ARRAYS.items()]


def write(folder, max_shard_bytes=10**6):
    return write_safetensors(folder, TENSORS, max_shard_bytes=max_shard_bytes, basename="model")


def assert_holds_arrays(source):
    assert sorted(source.keys()) == sorted(ARRAYS)
    for name, array in ARRAYS.items():
        assert source.shape(name) == array.shape
        assert source.dtype(name) == source.read(name).dtype == array.dtype
        np.testing.assert_array_equal(source.read(name), array)


def test_one_file(tmp_path):
    (file,) = write(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["model.safetensors"]
    (tmp_path / "plain").touch()
    assert file.stat().st_mode == (tmp_path / "plain").stat().st_mode
    assert_holds_arrays(open_source(file))
    assert_holds_arrays(open_source(tmp_path))
    assert load_file(file)["b.weight"].dtype == torch.bfloat16


def test_values_are_read_in_their_turn_and_written_a_piece_at_a_time(tmp_path, monkeypatch):
    monkeypatch.setattr(export, "PIECE_BYTES", 24)
    events = []

    def tensor(name, array, dtype):
        def read():
            events.append(name)
            return array

        return LazyTensor(name=name, shape=array.shape, dtype=np.dtype(dtype), read=read)

    values = np.arange(35, dtype=np.float32).reshape(7, 5).T
    tensors = [tensor("wide", values, np.float32), tensor("half", values, np.float16)]
    assert [len(piece) for piece in tensors[0].pieces()] == [1] * 5 and events == ["wide"]
    (file,) = write_safetensors(tmp_path, tensors, max_shard_bytes=10**6, basename="model")
    assert events == ["wide", "wide", "half"]
    stored = safetensors.numpy.load_file(file)
    for name, dtype in (("wide", np.float32), ("half", np.float16)):
        assert stored[name].dtype == dtype
        np.testing.assert_array_equal(stored[name], values)
    overflow = tensor("large", np.full((9, 9), 7e4, np.float32), np.float16)
    with pytest.raises(UserError, match="large holds values beyond float16"):
        write_safetensors(tmp_path, [overflow], max_shard_bytes=10**6, basename="other")
    assert [p.name for p in tmp_path.iterdir()] == ["model.safetensors"]


def test_shards_with_and_without_index(tmp_path):
    files = write(tmp_path, max_shard_bytes=64)
    assert [f.name for f in files] == [f"model-{i:05d}-of-00002.safetensors" for i in (1, 2)]
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == sum(a.nbytes for a in ARRAYS.values())
    assert sorted(index["weight_map"]) == sorted(ARRAYS)
    assert len(list(tmp_path.iterdir())) == 3
    (tmp_path / "model.fp16.safetensors").write_bytes(b"a variant is left alone")
    assert_holds_arrays(open_source(tmp_path))
    (tmp_path / "model.safetensors.index.json").unlink()
    assert_holds_arrays(open_source(tmp_path))


def test_a_failing_stream_leaves_nothing(tmp_path):
    def fail():
        assert len(list(tmp_path.iterdir())) > 1  # it comes late
        raise OSError("disk on fire")

    burning = dataclasses.replace(lazy("z", np.ones(2)), read=fail)
    with pytest.raises(OSError, match="fire"):
        write_safetensors(tmp_path, [*TENSORS, burning], max_shard_bytes=8, basename="model")
    with pytest.raises(ValueError, match="written twice"):
        write_safetensors(tmp_path, TENSORS[:1] * 2, max_shard_bytes=8, basename="model")
    (tmp_path / "model.safetensors").mkdir()  # the last step, a rename, fails
    with pytest.raises(OSError, match="directory"):
        write(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["model.safetensors"]


def test_pth(tmp_path):
    write_pth(tmp_path / "model.pth", TENSORS)
    state = torch.load(tmp_path / "model.pth", weights_only=True)
    assert state["b.weight"].dtype == torch.bfloat16 and state["a"].shape == (4, 3)
    assert_holds_arrays(open_source(tmp_path / "model.pth"))


def test_old_pth_cannot_be_mapped_but_is_read(tmp_path):
    state = {"a": torch.arange(3)}
    torch.save(state, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    np.testing.assert_array_equal(open_source(tmp_path / "old.pth").read("a"), [0, 1, 2])


def test_pth_without_torch(tmp_path, monkeypatch):
    write_pth(tmp_path / "model.pth", TENSORS)
    real = builtins.__import__

    def absent(name, *args, **kwargs):
        if name == "torch":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", absent)
    for attempt in (
        lambda: open_source(tmp_path / "model.pth"),
        lambda: write_pth(tmp_path / "x.pth", TENSORS),
    ):
        with pytest.raises(UserError, match=r"pip install 'skyreels_jax\[torch\]'"):
            attempt()


class Unsafe:
    def __reduce__(self):
        return print, ("code ran",)


def damaged(folder, kind):
    """Makes a broken weight file or folder and returns its path."""
    folder.mkdir(exist_ok=True)
    if kind == "absent":
        return folder / "nothing"
    if kind == "empty folder":
        return folder
    if kind in ("truncated", "truncated shard"):
        files = write(folder, max_shard_bytes=64 if "shard" in kind else 10**6)
        files[-1].write_bytes(files[-1].read_bytes()[:-7])
        return folder
    if kind == "text":
        (folder / "model.safetensors").write_text("404: not found")
        return folder
    if kind == "empty":
        (folder / "model.safetensors").write_bytes(b"")
        return folder
    if kind == "absent shard":
        write(folder, max_shard_bytes=64)[0].unlink()
        return folder
    if kind == "bad index":
        (folder / "model.safetensors.index.json").write_text("{}")
        return folder
    if kind == "old index":
        write(folder, max_shard_bytes=64)
        write(folder)
        return folder
    if kind == "twice":
        write(folder)[0].rename(folder / "other.safetensors")
        write(folder)
        return folder
    path = folder / "model.pth"
    torch.save({"nested": [1]} if kind == "nested pth" else {"a": Unsafe()}, path)
    if kind == "truncated pth":
        write_pth(path, TENSORS)
        path.write_bytes(path.read_bytes()[:-100])
    return path


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("absent", "no such weight file or folder"),
        ("empty folder", r"no weights; expected \*.safetensors"),
        ("truncated", "model.safetensors: not a complete safetensors file"),
        ("truncated shard", "model-00002-of-00002.safetensors: not a complete safetensors file"),
        ("text", "not a complete safetensors file"),
        ("empty", "not a complete safetensors file"),
        ("absent shard", "missing weight files model-00001-of-00002.safetensors"),
        ("bad index", "not a safetensors index"),
        ("old index", "index.json does not name model.safetensors; delete the old one"),
        ("twice", "is in other.safetensors and another file"),
        ("truncated pth", "not a complete PyTorch weight file"),
        ("unsafe pth", "not a complete PyTorch weight file"),
        ("nested pth", "one flat dictionary of tensors"),
    ],
)
def test_damage_is_one_line(tmp_path, capsys, kind, message):
    path = damaged(tmp_path / "model", kind)
    with pytest.raises(UserError, match=message) as caught:
        open_source(path)
    assert "\n" not in str(caught.value)
    assert "code ran" not in capsys.readouterr().out
