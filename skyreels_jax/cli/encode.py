"""`skyreels-jax data encode`: people's own videos to what a transformer is trained on."""

import argparse
import collections
import concurrent.futures
import contextlib
import pathlib
import sys
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from skyreels_jax.core.errors import UserError
from skyreels_jax.core.signals import Signals

if TYPE_CHECKING:
    from skyreels_jax.data.video_folder.clips import Clip, Plan

INTERRUPTED = 130
SHOWN = 5  # broken files that are named
AHEAD = 4  # clips that are read while one is encoded
ACTIONS = {
    "encode": {
        **{"videos": None, "captions": None, "model": None, "resolution": "540p"},
        **{"num_frames": 97, "data_dir": pathlib.Path("data"), "part": "1/1"},
    },
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags that this action alone reads."""
    flags = parser.add_argument_group("own videos").add_argument
    flags(
        "--videos",
        type=pathlib.Path,
        metavar="DIR",
        help="encode: folder of videos and images, which count as clips of a frame",
    )
    flags(
        "--captions",
        type=pathlib.Path,
        metavar="FILE",
        help='encode: lines {"file", "caption" (a text, or a list of paraphrases), "subject_type", '
        '"start", "end" (seconds)} (default: DIR/captions.jsonl, or NAME.txt beside NAME.mp4)',
    )
    flags(
        "--resolution",
        metavar="NAME",
        help="encode: 256p, 360p, 540p (default) or 720p, of five aspects each, or HEIGHTxWIDTH",
    )
    flags(
        "--part",
        metavar="I/N",
        help="encode: the I-th of N parts of the files, each of which may be another process on "
        "another machine (default 1/1)",
    )


def encode(args: argparse.Namespace) -> int:
    """Writes what is missing of a part of a feature set; returns 130 when it was stopped."""
    from tqdm import tqdm

    from skyreels_jax.core.files import check_writable
    from skyreels_jax.data.buckets import buckets
    from skyreels_jax.data.features.manifest import Made
    from skyreels_jax.data.features.writer import PartWriter
    from skyreels_jax.data.video_folder.captions import read_captions
    from skyreels_jax.data.video_folder.clips import plan
    from skyreels_jax.pipelines.cache import enable_compilation_cache
    from skyreels_jax.pipelines.encoders import open_encoders

    for name in ("videos", "model"):
        if getattr(args, name) is None:
            raise UserError(f"data encode needs --{name}")
    part, resolution = parse_part(args.part), args.resolution.lower()
    among = buckets(resolution, args.num_frames)
    entries = read_captions(args.videos, args.captions)
    check_writable(args.data_dir)
    encoders = open_encoders(args.model)
    made = Made(
        model=encoders.model_id,
        encoders=encoders.fingerprint,
        resolution=resolution,
        num_frames=args.num_frames,
        channels=encoders.channels,
        text_dim=encoders.text_dim,
    )
    writer = PartWriter(args.data_dir, part, made)
    found = plan(args.videos, entries, among, part=part)
    print("\n".join(told(found)))
    if not found.clips and part == (0, 1):
        raise UserError(
            f"nothing in {str(args.videos)!r} fits a bucket of {resolution} and up to "
            f"{args.num_frames} frames, such as {among[0]} or {among[-1]} (frames x height x width)"
        )
    missing = writer.missing([clip.id for clip in found.clips])
    clips = sorted((c for c in found.clips if c.id in missing), key=lambda clip: clip.bucket)
    broken, done = dict(found.broken), len(found.clips) - len(clips)
    enable_compilation_cache()
    loaded = encoders.load()
    bar = tqdm(total=len(found.clips), initial=done, unit="clip", desc="encode", mininterval=1.0)
    stop = Signals("stopping after this clip")
    with bar, writer, stop, contextlib.closing(_read_ahead(clips)) as read:
        writer.write_null(loaded.states(""))
        for clip, frames in read:
            if stop.noted:
                break
            if isinstance(frames, UserError):
                broken[clip.entry.file] = str(frames)
                continue
            states = [loaded.states(caption) for caption in clip.entry.captions]
            said = {"fps": clip.fps, "subject_type": clip.entry.subject_type}
            writer.add(clip.id, clip.bucket, loaded.latents(frames), states, **said)
            bar.update()
        writer.finish(broken, done=not stop.noted)
    late = {file: why for file, why in broken.items() if file not in found.broken}
    print("\n".join(_told_broken(late)), end="\n" if late else "")
    if stop.noted:
        print("stopped; the same command goes on from here", file=sys.stderr)
        return INTERRUPTED
    print(args.data_dir)
    return 0


def parse_part(text: str) -> tuple[int, int]:
    """Returns (index from 0, count) of "I/N"; raises `UserError` for anything else."""
    index, slash, count = text.partition("/")
    if not (slash and index.isdecimal() and count.isdecimal() and 1 <= int(index) <= int(count)):
        raise UserError(f"--part {text!r}: legal are 1/N to N/N, such as 1/4")
    return int(index) - 1, int(count)


def told(found: "Plan") -> list[str]:
    """Returns lines: how many clips each bucket gets, and what is left out and why."""
    counts = sorted(collections.Counter(clip.bucket for clip in found.clips).items())
    shown = ", ".join(f"{count:,} of {bucket}" for bucket, count in counts)
    lines = [f"{len(found.clips):,} clips (frames x height x width): {shown or 'none'}"]
    lines += [f"left out: {count:,} {why}" for why, count in sorted(found.left_out.items())]
    return lines + _told_broken(found.broken)


def _told_broken(broken: dict[str, str]) -> list[str]:
    if not broken:
        return []
    named = "; ".join(f"{file}: {why}" for file, why in list(broken.items())[:SHOWN])
    more = f"; and {len(broken) - SHOWN:,} more (manifest.json)" if len(broken) > SHOWN else ""
    return [f"left out: {len(broken):,} broken ({named}{more})"]


def _read_ahead(clips: Iterable["Clip"]) -> Iterator[tuple["Clip", Any]]:
    """Yields every clip with its frames, or the `UserError` that its reading raised."""
    waiting: collections.deque = collections.deque()
    with concurrent.futures.ThreadPoolExecutor(AHEAD) as pool:
        try:
            for clip in clips:
                waiting.append((clip, pool.submit(clip.read)))
                if len(waiting) > AHEAD:
                    yield _result(*waiting.popleft())
            while waiting:
                yield _result(*waiting.popleft())
        finally:
            pool.shutdown(cancel_futures=True)


def _result(clip: "Clip", reading: concurrent.futures.Future) -> tuple["Clip", Any]:
    try:
        return clip, reading.result()
    except UserError as error:
        return clip, error


RUN = {"encode": encode}
