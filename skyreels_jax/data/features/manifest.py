"""What a part of a feature set holds: a folder of array_record shards and their manifest.json.

Not a TFDS data set: TFDS writes a split from its beginning to its end in one process, and throws
away what a stopped one has written. Here every shard that is closed is kept, the manifest says
which clips it holds, and each of many machines writes a folder of its own, `part-I-of-N`; they meet
when they are read. The manifest also has what the loader must know of clips before it reads any.
"""

import dataclasses
import json
import pathlib
import re
from collections.abc import Sequence
from typing import Any

from skyreels_jax.core.config import from_dict, to_dict
from skyreels_jax.core.errors import UserError
from skyreels_jax.core.files import write_json
from skyreels_jax.data.buckets import Bucket

MANIFEST = "manifest.json"
NULL = "null.npy"  # bits of the empty caption's states, [S, E]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Made:
    """What features hang on beside the clips themselves.

    model: whose VAE and text encoder made them, a folder or hub id; they are found there again.
    encoders: the fingerprint of both.  channels, text_dim: of latents and text states.
    """

    model: str
    encoders: str
    resolution: str
    num_frames: int
    channels: int
    text_dim: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shard:
    """A file, and of each of its records in order: the clip's id, frames a second, subject type;
    tokens: of the longest caption in it."""

    file: str
    bucket: Bucket
    ids: tuple[str, ...]
    fps: tuple[int, ...]
    subject_types: tuple[str, ...]
    tokens: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Manifest:
    """done: whether all clips that there were are in the shards, but for `broken` files."""

    made: Made
    shards: tuple[Shard, ...] = ()
    broken: dict[str, Any] = dataclasses.field(default_factory=dict)
    done: bool = False

    @property
    def ids(self) -> set[str]:
        return {id for shard in self.shards for id in shard.ids}

    def write(self, folder: pathlib.Path) -> None:
        """Writes it, whole."""
        write_json(folder / MANIFEST, to_dict(self))


def read_manifest(folder: pathlib.Path) -> Manifest | None:
    """Returns the manifest of a part, None where there is none; `UserError` for a damaged one."""
    path = folder / MANIFEST
    if not path.is_file():
        return None
    try:
        return from_dict(Manifest, json.loads(path.read_text(encoding="utf-8")))
    except ValueError as error:
        raise UserError(f"{path}: not a manifest of features ({error})") from None


def part_name(part: tuple[int, int]) -> str:
    """Returns the folder of part (index from 0, count)."""
    return f"part-{part[0] + 1}-of-{part[1]}"


def parts(folder: pathlib.Path) -> dict[tuple[int, int], pathlib.Path]:
    """Returns the parts that have begun, by (index from 0, count)."""
    found = {}
    for path in sorted(folder.glob(f"part-*-of-*/{MANIFEST}")):
        if named := re.fullmatch(r"part-(\d+)-of-(\d+)", path.parent.name):
            found[int(named[1]) - 1, int(named[2])] = path.parent
    return found


def check_made(folder: pathlib.Path, there: Made, expected: Made) -> None:
    """Raises `UserError` where features were made otherwise than is `expected`."""
    old, new = to_dict(there), to_dict(expected)
    names = [name for name in new if name != "model" and old[name] != new[name]]
    if names:
        listed = ", ".join(f"{name} {old[name]} -> {new[name]}" for name in names)
        raise UserError(
            f"the features in {folder} were made otherwise ({listed}): delete the folder, or name "
            "another one"
        )


def check_parts(folder: pathlib.Path, part: tuple[int, int]) -> None:
    """Raises `UserError` where `folder` is divided into another number of parts."""
    if other := sorted({count for _, count in parts(folder)} - {part[1]}):
        raise UserError(f"{folder} is being made in {other[0]} parts: --part I/{other[0]}")


def complete(folder: pathlib.Path) -> Sequence[tuple[pathlib.Path, Manifest]]:
    """Returns all parts of a finished set with their manifests, in order.

    Raises `UserError` where `folder` holds none, or parts are missing or unfinished.
    """
    found = parts(folder)
    if not found:
        raise UserError(f"{str(folder)!r} holds no features; `skyreels-jax data encode` makes them")
    counts = {count for _, count in found}
    if len(counts) > 1:
        raise UserError(f"{folder} is made in {' and in '.join(map(str, counts))} parts; keep one")
    (count,) = counts
    made, missing = [], []
    for index in range(count):
        path = found.get((index, count))
        manifest = None if path is None else read_manifest(path)
        if manifest is None or not manifest.done:
            missing.append(f"{index + 1}/{count}")
        else:
            made.append((path, manifest))
    if missing:
        raise UserError(
            f"{folder} is not finished: give `data encode` --part {', --part '.join(missing)} again"
        )
    return made
