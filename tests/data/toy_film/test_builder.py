"""The TFDS builder: real array_record files, no TensorFlow."""

import json
import sys

import grain
import numpy as np
import pytest

from skyreels_jax.core.errors import UserError
from skyreels_jax.data.toy_film import world
from skyreels_jax.data.toy_film.captions import scene_from_structured
from skyreels_jax.data.toy_film.render import render
from skyreels_jax.data.toy_film.toy_film_dataset_builder import toy_film
from skyreels_jax.data.toy_film.world import attributes, sample_scene


@pytest.fixture(scope="module")
def builder(tmp_path_factory):
    made = toy_film(tmp_path_factory.mktemp("tfds"), num_clips=6, num_frames=9, num_sentences=2)
    made.download_and_prepare()
    return made


def test_splits_and_contents(builder):
    assert {name: split.num_examples for name, split in builder.info.splits.items()} == {
        "train": 6,
        "validation": 1,
        "held_out": 1,
        "held_out_combinations": 1,
    }
    for split in ("train", "held_out"):
        for clip in builder.as_data_source(split=split):
            scene = sample_scene(int(clip["seed"]), split)
            np.testing.assert_array_equal(clip["video"], render(scene, 9))
            told = scene_from_structured(json.loads(clip["structured"]))
            fields = {name: clip[name].decode() for name in world.ATTRIBUTES}
            assert attributes(told) == attributes(scene) == fields
            assert len(clip["sentences"]) == 2 and "fps" not in clip
    (clip,) = builder.as_data_source(split="validation")
    assert clip["seed"] >= 1_000_000_000
    assert "tensorflow" not in sys.modules


def test_grain_resumes_exactly(builder):
    def seeds():
        source = builder.as_data_source(split="train")
        data = grain.MapDataset.source(source).seed(1).shuffle().repeat()
        return iter(data.map(lambda clip: int(clip["seed"])).to_iter_dataset())

    stream = seeds()
    first = [next(stream) for _ in range(4)]
    state = stream.get_state()
    rest = [next(stream) for _ in range(6)]
    again = seeds()
    again.set_state(state)
    assert [next(again) for _ in range(6)] == rest
    assert sorted(first + rest[:2]) == list(range(6))


def test_frame_rates_in_turn(tmp_path):
    made = toy_film(tmp_path, num_clips=2, num_frames=9, num_sentences=1, rates=(12, 16))
    made.download_and_prepare()
    assert made.builder_config.name == "2x9x1-0-12_16fps"
    for clip in made.as_data_source(split="train"):
        scene, seed = sample_scene(int(clip["seed"])), int(clip["seed"])
        assert clip["fps"] == (12, 16)[seed % 2]
        np.testing.assert_array_equal(clip["video"], render(scene, 9, fps=int(clip["fps"])))


def test_bad_counts_say_what_is_legal(tmp_path):
    with pytest.raises(UserError, match="4k \\+ 1"):
        toy_film(tmp_path, num_frames=16)
    with pytest.raises(UserError, match="frames a second, 1 or more"):
        toy_film(tmp_path, rates=(12, 0))
    with pytest.raises(UserError, match="films with turns have 12, got"):
        toy_film(tmp_path, rates=(12, 16), turns=0.5)
