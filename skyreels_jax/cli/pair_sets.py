"""Sets of pairs as the actions of `skyreels-jax data` read and write them."""

import argparse
import collections
import functools
import hashlib
import json
import pathlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from skyreels_jax.core.errors import UserError

if TYPE_CHECKING:
    from skyreels_jax.data.preferences.records import Preference
    from skyreels_jax.data.preferences.twins import Maker, TwinsConfig

HELD_OUT_SHARE, LEAST_HELD_OUT = 16, 8  # one held-out clip for so many of training, and how many
Splits = Mapping[str, Callable[[], Iterable["Preference"]]]


def read(path: pathlib.Path) -> Splits:
    """Returns the splits of a prepared dataset (its folder), or of a .jsonl file ("train").

    Raises `UserError` where there is neither.
    """
    from skyreels_jax.data.preferences import preferences_dataset_builder as builder

    def records(split: str) -> Iterator["Preference"]:
        return map(builder.to_preference, builder.read_preferences(path, split=split))

    if path.suffix == ".jsonl":
        return read_file(path)
    return {split: functools.partial(records, split) for split in builder.split_names(path)}


def read_file(path: pathlib.Path) -> Splits:
    """Returns the pairs of a .jsonl file as the one split "train"."""
    from skyreels_jax.data.preferences.pair_files import read_pairs

    return {"train": functools.partial(read_pairs, path, read_clip)}


def read_ids(path: pathlib.Path) -> dict[str, set[str]]:
    """Returns the ids of the pairs in each split of what `read` reads."""
    from skyreels_jax.data.preferences import preferences_dataset_builder as builder

    if path.suffix == ".jsonl":
        return {split: {pair.id for pair in pairs()} for split, pairs in read(path).items()}
    return {
        split: {
            record["id"].decode()
            for record in builder.read_preferences(path, split=split, pixels=False)
        }
        for split in builder.split_names(path)
    }


def read_clip(path: pathlib.Path) -> np.ndarray:
    """Returns all frames of a video file, uint8 [F, H, W, 3]."""
    from skyreels_jax.pipelines.video import read_video

    return np.stack(list(read_video(path).open()))


def identity(path: pathlib.Path) -> list[Any]:
    """Returns what tells the pairs that `read` reads from others: of a .jsonl file its text and
    which clips lie there under the names in it; of a dataset its name, which hangs on its contents.
    """
    from skyreels_jax.data.preferences import pair_files, preferences_dataset_builder

    if path.suffix != ".jsonl":
        return [preferences_dataset_builder.full_name(path)]
    clips = [_told(clip) for clip in pair_files.clip_files(path)]
    return [hashlib.sha256(path.read_bytes()).hexdigest(), clips]


def _told(clip: pathlib.Path) -> list[Any] | None:
    try:
        found = clip.stat()
    except OSError:
        return None  # whoever reads it will say so
    return [found.st_size, found.st_mtime_ns]


def shape(splits: Splits) -> tuple[int, int, int]:
    """Returns frames, height and width of the first clip."""
    return next(iter(next(iter(splits.values()))())).chosen.shape[:3]


def called(name: str, said: Any) -> str:
    """Returns NAME-HASH, the hash being of `said`: what the contents of a set hang on."""
    return f"{name}-{hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:8]}"


def write(
    data_dir: pathlib.Path, name: str, splits: Splits, *, shape: tuple[int, int, int]
) -> None:
    """Prepares the dataset `name` unless it is there; prints what it is."""
    from skyreels_jax.data.preferences.preferences_dataset_builder import preferences

    builder = preferences(data_dir, name=name, shape=shape, splits=splits)
    builder.download_and_prepare()
    for split, info in builder.info.splits.items():
        print(f"{split:<24}{info.num_examples:>7} pairs {info.num_bytes / 2**20:>9.1f} MiB")
    print(builder.data_dir)


def maker(model: str | None, kinds: tuple[str, ...]) -> "tuple[Maker | None, str | None]":
    """Returns the model that makes twins and shows clips, and the fingerprint of its weights; None
    and None without one. Raises `UserError` where one of `kinds` needs one."""
    from skyreels_jax.data.preferences.model_kinds import MODEL_KINDS
    from skyreels_jax.data.preferences.twins import Maker

    wanted = [kind for kind in kinds if kind in MODEL_KINDS]
    if not wanted and model is None:
        return None, None
    if model is None:
        raise UserError(f"{wanted[0]} is made by a model; give --model tiny, a folder or a hub id")
    from skyreels_jax.pipelines.load import load
    from skyreels_jax.pipelines.video_to_video import remake

    loaded = load(model)
    made = Maker(functools.partial(remake, loaded), loaded.reconstruct)
    return made, loaded.source.fingerprint


def toy_splits(
    config: "TwinsConfig",
    num_clips: int,
    num_frames: int,
    *,
    held_out: int,
    maker: "Maker | None",
    dropped: collections.Counter,
) -> Splits:
    """Returns the twins of ToyFilm's clips, scored by the judge of stills: "train", and "held_out"
    of scenes that no training clip shows."""
    from skyreels_jax.data.preferences.twins import Original, twins
    from skyreels_jax.data.toy_film.captions import sentences
    from skyreels_jax.data.toy_film.render import render
    from skyreels_jax.data.toy_film.world import sample_scene
    from skyreels_jax.evals.stills import stills_score

    def pairs(split: str, count: int) -> Iterator["Preference"]:
        seeds = range(config.seed, config.seed + count)
        scenes = [sample_scene(seed, split) for seed in seeds]
        prompts = sentences(scenes, seed=config.seed)
        score = stills_score(dict(zip(prompts, scenes, strict=True)))
        clips = (
            Original(id=f"{split}-{seed}", video=render(scene, num_frames), prompt=prompt)
            for seed, scene, prompt in zip(seeds, scenes, prompts, strict=True)
        )
        return twins(clips, config, score=score, maker=maker, dropped=dropped)

    return {
        "train": functools.partial(pairs, "train", num_clips),
        "held_out": functools.partial(pairs, "held_out", held_out),
    }


def held_out(args: argparse.Namespace) -> int:
    """Returns how many held-out clips (or captions) are wanted beside those of training."""
    if args.held_out is None:
        return max(LEAST_HELD_OUT, args.num_clips // HELD_OUT_SHARE)
    if args.held_out < 1:
        raise UserError(f"--held_out must be 1 or more, got {args.held_out}")
    return args.held_out


def print_dropped(dropped: collections.Counter) -> None:
    """Says how many pairs were left out, and why."""
    for reason, count in dropped.most_common():
        print(f"dropped {reason:<16}{count:>7}")
