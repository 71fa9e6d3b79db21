"""Preferences as a TFDS dataset: pairs in array_record files, without TensorFlow.

    builder = preferences(data_dir, name="twins", splits={"train": lambda: twins(...)})
    builder.download_and_prepare()
    source = read_preferences(builder.data_dir)  # for loader.pipeline, with records.CutPair

What is prepared is complete by itself: `read_preferences` needs no builder.
"""

import dataclasses
import os
import pathlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from skyreels_jax.core.errors import UserError
from skyreels_jax.core.labels import LABELS
from skyreels_jax.data.loader import Source
from skyreels_jax.data.preferences.records import AXES, SIDES, Preference
from skyreels_jax.data.sequential import SequentialBuilder

Pairs = Callable[[], Iterable[Preference]]


@dataclasses.dataclass(eq=False)
class PreferencesConfig(tfds.core.BuilderConfig):
    """What is written.

    shape: frames, height and width of every clip. splits: name -> a new iterator over its pairs.
    """

    shape: tuple[int, int, int] = (33, 64, 64)
    splits: Mapping[str, Pairs] = dataclasses.field(default_factory=dict)


class Builder(SequentialBuilder):
    """Pairs of clips with the label of their motion; records.py says what the fields mean."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "First release."}

    def _info(self) -> tfds.core.DatasetInfo:
        def clip():
            return tfds.features.Tensor(
                shape=(*self.builder_config.shape, 3), dtype=np.uint8, encoding="zlib"
            )

        features = {
            "id": tfds.features.Text(),
            "chosen": clip(),
            "rejected": clip(),
            "label": tfds.features.ClassLabel(names=LABELS),
            "source": tfds.features.Text(),
            "strength": np.float32,
            "prompt": tfds.features.Text(),
            "scores": {axis: tfds.features.Tensor(shape=(2,), dtype=np.float32) for axis in AXES},
        }
        return self.dataset_info_from_configs(
            features=tfds.features.FeaturesDict(features),
            description="Pairs of clips that differ in motion alone, and which moves better.",
        )

    def _split_generators(self, dl_manager) -> dict[str, Iterator]:
        del dl_manager  # nothing is downloaded
        splits = self.builder_config.splits
        return {name: self._generate_examples(pairs) for name, pairs in splits.items()}

    def _generate_examples(self, pairs: Pairs) -> Iterator[tuple[str, dict[str, Any]]]:
        shape = self.builder_config.shape
        for pair in pairs():
            if pair.chosen.shape[:3] != shape:
                raise UserError(
                    f"pair {pair.id!r} has clips of {list(pair.chosen.shape[:3])} "
                    f"(frames, height, width), others of {list(shape)}; legal: one shape"
                )
            fields = {f.name: getattr(pair, f.name) for f in dataclasses.fields(pair)}
            scores = {axis: np.float32(pair.scores[axis]) for axis in AXES}
            yield pair.id, fields | {"scores": scores}


def preferences(
    data_dir: str | os.PathLike[str],
    *,
    name: str,
    shape: tuple[int, int, int],
    splits: Mapping[str, Pairs],
) -> Builder:
    """Returns the builder; `download_and_prepare()` writes what is missing.

    name: of this set of pairs; what was prepared under it is not made again, so it has to say what
    they hang on.
    """
    config = PreferencesConfig(name=name, description=name, shape=shape, splits=splits)
    return Builder(data_dir=os.fspath(data_dir), config=config, file_format="array_record")


def read_preferences(
    folder: str | os.PathLike[str], *, split: str = "train", pixels: bool = True
) -> Source:
    """Returns random access to the records of a prepared set; `folder` is its `data_dir`, or the
    one given to `preferences` where that holds no other set.

    `pixels=False` leaves the clips as the bytes on disk, for whoever reads the rest only.
    Raises `UserError` for another folder or split.
    """
    builder = _prepared(folder)
    if split not in builder.info.splits:
        legal = ", ".join(builder.info.splits)
        raise UserError(f"{os.fspath(folder)!r} has no split {split!r}; legal: {legal}")
    skip = None if pixels else {side: tfds.decode.SkipDecoding() for side in SIDES}
    return builder.as_data_source(split=split, decoders=skip)


def described(folder: str | os.PathLike[str], *, split: str = "train") -> str:
    """Returns which records a prepared set holds, as far as it says without being read."""
    info = _prepared(folder).info
    said = info.splits[split]
    return f"{said.num_examples} pairs of {info.full_name} ({int(said.num_bytes)} bytes)"


def split_names(folder: str | os.PathLike[str]) -> list[str]:
    """Returns the splits of a prepared set; `UserError` for another folder."""
    return list(_prepared(folder).info.splits)


def full_name(folder: str | os.PathLike[str]) -> str:
    """Returns by which name a set was prepared; `UserError` for another folder."""
    return _prepared(folder).info.full_name


def to_preference(record: Mapping[str, Any]) -> Preference:
    """Returns a record of `read_preferences` as it was written."""
    return Preference(
        **{name: record[name].decode() for name in ("id", "source", "prompt")},
        **{side: record[side] for side in SIDES},
        label=LABELS[int(record["label"])],
        strength=float(record["strength"]),
        scores={axis: tuple(map(float, record["scores"][axis])) for axis in AXES},
    )


def _prepared(folder: str | os.PathLike[str]) -> tfds.core.DatasetBuilder:
    folder = pathlib.Path(folder)
    found = [
        path.parent
        for path in folder.glob("preferences/*/*/dataset_info.json")
        if not path.parent.name.startswith("incomplete.")  # TFDS's, of a writer that was stopped
    ]
    if len(found) > 1:
        listed = ", ".join(sorted(map(str, found)))
        raise UserError(f"{str(folder)!r} holds several sets of pairs; name one: {listed}")
    folder = found[0] if found else folder
    if not (folder / "dataset_info.json").is_file():
        raise UserError(f"{str(folder)!r} holds no preferences; `data pairs` makes them")
    builder = tfds.builder_from_directory(folder)
    if builder.name != "preferences":
        raise UserError(f"{str(folder)!r} holds {builder.name}; legal: preferences")
    return builder
