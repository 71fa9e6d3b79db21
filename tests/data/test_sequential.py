"""Data sets that are written as they are generated."""

import pathlib

import numpy as np
import pytest
import tensorflow_datasets as tfds

from skyreels_jax.core.errors import UserError
from skyreels_jax.data import sequential


class Numbers(sequential.SequentialBuilder):
    """Clips of one number each."""

    VERSION = tfds.core.Version("1.0.0")
    pkg_dir_path = pathlib.Path(__file__).parent
    keys = range(0)

    def _info(self):
        clip = tfds.features.Tensor(shape=(2, 4), dtype=np.uint8, encoding="zlib")
        return self.dataset_info_from_configs(features=tfds.features.FeaturesDict({"clip": clip}))

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples()}

    def _generate_examples(self):
        for key in self.keys:
            yield key, {"clip": np.full((2, 4), key, np.uint8)}


def prepared(tmp_path, keys):
    builder = Numbers(data_dir=tmp_path, file_format="array_record")
    builder.keys = keys
    builder.download_and_prepare()
    return builder


def test_examples_are_in_order_and_in_files_before_the_last_one_is_made(tmp_path, monkeypatch):
    monkeypatch.setattr(sequential, "SHARD_BYTES", 80)
    monkeypatch.setattr(sequential, "TOGETHER", 3)
    files = []

    def keys():
        for key in range(25):
            files.append(len(list(tmp_path.rglob("*array_record*"))))
            yield key

    builder = prepared(tmp_path, keys())
    assert files[0] == 0 and files[12] >= 1 and files[24] >= 2
    for found in (builder, tfds.builder_from_directory(builder.data_dir)):
        assert found.info.splits["train"].shard_lengths == [10, 10, 5]
        source = found.as_data_source(split="train")
        assert [int(source[i]["clip"][0, 0]) for i in range(len(source))] == list(range(25))


@pytest.mark.parametrize(
    ("keys", "complaint"),
    [([], "nothing is left to write into 'train'"), ([3, 4, 3], "two examples .* are called 3")],
)
def test_nothing_is_left_behind_by_sets_that_are_none(tmp_path, keys, complaint):
    with pytest.raises(UserError, match=complaint):
        prepared(tmp_path, keys)
    assert not list(tmp_path.rglob("dataset_info.json"))
    assert len(prepared(tmp_path, [1]).as_data_source(split="train")) == 1
