"""The latents store: contents, continuation, and refusal of what is stale."""

import jax.numpy as jnp
import numpy as np
import pytest

from skyreels_jax.core.errors import UserError
from skyreels_jax.data.latents import LatentStore, build, fingerprint, read_manifest

COUNT, BATCH = 11, 4
CAPTIONS = {
    "input_ids": np.arange(COUNT * 2 * 8, dtype=np.int32).reshape(COUNT, 2, 8),
    "length": np.full((COUNT, 2), 5, np.int32),
}
NULL = {"input_ids": np.ones(8, np.int32), "length": np.int32(1)}


class Clips:
    def __init__(self):
        self.read = []

    def __len__(self):
        return COUNT

    def __getitem__(self, index):
        self.read.append(index)
        return {"video": np.full((5, 8, 8, 3), index, np.uint8)}


def encode(video):
    """Stands for a VAE: the mean of every clip, in the shape of its latents."""
    assert video.shape == (BATCH, 5, 8, 8, 3)  # one shape, whatever is left
    return np.broadcast_to(video.mean((1, 2, 3, 4)).reshape(-1, 1, 1, 1, 1), (BATCH, 2, 1, 1, 4))


def make(folder, clips, encode=encode, expected="f"):
    options = {"expected": expected, "batch": BATCH, "save_every": 1}
    build(folder, clips, encode, CAPTIONS, NULL, **options)


def test_contents(tmp_path):
    make(tmp_path, Clips())
    store = LatentStore(tmp_path, expected="f")
    assert len(store) == COUNT
    for index in range(COUNT):
        sample = store[index]
        np.testing.assert_array_equal(sample["latents"], np.full((2, 1, 1, 4), index, np.float16))
        np.testing.assert_array_equal(sample["input_ids"], CAPTIONS["input_ids"][index])
    assert store.null_cond["length"] == 1 and store.null_cond["input_ids"].shape == (8,)


def test_an_interrupted_build_goes_on(tmp_path):
    class Killed(Exception):
        pass

    calls = []

    def fails_later(video):
        calls.append(1)
        if len(calls) == 3:
            raise Killed
        return encode(video)

    with pytest.raises(Killed):
        make(tmp_path, Clips(), fails_later)
    assert read_manifest(tmp_path)["done"] == 8
    with pytest.raises(UserError, match="no finished latents"):
        LatentStore(tmp_path, expected="f")
    clips = Clips()
    make(tmp_path, clips)
    assert clips.read == [8, 9, 10]
    store = LatentStore(tmp_path, expected="f")
    got = [float(store[i]["latents"][0, 0, 0, 0]) for i in range(COUNT)]
    assert got == list(range(COUNT))
    clips = Clips()
    make(tmp_path, clips)
    assert clips.read == []


def test_stale_stores_are_refused(tmp_path):
    make(tmp_path, Clips())
    with pytest.raises(UserError, match="another VAE"):
        LatentStore(tmp_path, expected="g")
    with pytest.raises(UserError, match="another VAE"):
        make(tmp_path, Clips(), expected="g")
    with pytest.raises(UserError, match="no finished latents"):
        LatentStore(tmp_path / "none", expected="f")


def test_the_fingerprint_depends_on_weights_and_settings():
    weights = {"a": jnp.ones(3), "b": {"c": jnp.zeros(2)}}
    base = fingerprint(weights, {"clips": 1})
    assert base == fingerprint(
        {"b": {"c": np.zeros(2, np.float32)}, "a": np.ones(3, np.float32)}, {"clips": 1}
    )
    others = [
        fingerprint(weights, {"clips": 2}),
        fingerprint({**weights, "a": jnp.ones(3).at[1].set(1.0001)}, {"clips": 1}),
        fingerprint({"a": weights["a"], "d": weights["b"]}, {"clips": 1}),
    ]
    assert len({base, *others}) == 4
