"""From captioned files to clips: which part of which file becomes a sample of which bucket."""

import collections
import dataclasses
import hashlib
import os
import pathlib
from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Int, UInt8
from tqdm import tqdm

from skyreels_jax.core.errors import UserError
from skyreels_jax.data.buckets import Bucket, fitting
from skyreels_jax.data.video_folder.captions import Entry
from skyreels_jax.data.video_folder.media import Media, fitted, probe, read_frames, read_image
from skyreels_jax.data.video_folder.rate import RATES, SLOWEST, nearest, normal_rate

ENDLESS = 10**9
SLOW = f"slower than {SLOWEST} frames a second"
SMALL, SHORT = "smaller than every bucket", "shorter than every bucket"


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Clip:
    """Frames of a file that become a sample.

    stamps: when they are shown, see `Media`; None: the file is an image.
    fps: frames a second; images, which have none, count as what the model knows as 24.
    """

    path: pathlib.Path
    entry: Entry
    bucket: Bucket
    fps: int
    stamps: Int[np.ndarray, " F"] | None

    @property
    def id(self) -> str:
        """Names what the sample is made of; another file or caption is another one."""
        span = None if self.stamps is None else (int(self.stamps[0]), int(self.stamps[-1]))
        said = (self.entry, str(self.bucket), self.fps, span, self.path.stat().st_size)
        return hashlib.sha256(repr(said).encode()).hexdigest()[:16]

    def read(self) -> UInt8[np.ndarray, "F H W 3"]:
        """Returns the frames; raises `UserError` for a broken file, without its name."""
        size = {"height": self.bucket.height, "width": self.bucket.width}
        if self.stamps is None:
            return fitted(read_image(self.path), **size)[None]
        return read_frames(self.path, self.stamps, **size)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Plan:
    """The clips of a folder.

    broken: why files cannot be read.  left_out: how many entries give no clip, by reason.
    """

    clips: list[Clip]
    broken: dict[str, str]
    left_out: dict[str, int]


def plan(
    folder: str | os.PathLike[str],
    entries: Sequence[Entry],
    among: tuple[Bucket, ...],
    *,
    part: tuple[int, int] = (0, 1),
) -> Plan:
    """Returns the clips that the files of `entries` are cut into, of the buckets `among`.

    Files are measured, their frames are not read yet. Each is cut from its start into clips as long
    as buckets go, and what is left at its end into shorter ones.
    part: (index, count): of the files in order, every count-th from index on.
    """
    by_file = collections.defaultdict(list)
    for entry in entries:
        by_file[entry.file].append(entry)
    found: list[Clip] = []
    broken: dict[str, str] = {}
    left_out: collections.Counter[str] = collections.Counter()
    files = list(by_file)[part[0] :: part[1]]
    for file in tqdm(files, desc="measure", unit=" files", disable=None):
        path = pathlib.Path(folder).expanduser() / file
        try:
            media = probe(path, image=by_file[file][0].is_image)
        except UserError as error:
            broken[file] = str(error)
            continue
        for entry in by_file[file]:
            made = list(_cut(path, entry, media, among))
            found += made
            if not made:
                left_out[_reason(media, among)] += 1
    return Plan(clips=found, broken=broken, left_out=dict(left_out))


def _cut(
    path: pathlib.Path, entry: Entry, media: Media, among: tuple[Bucket, ...]
) -> Iterator[Clip]:
    size, images = (media.height, media.width), tuple(b for b in among if b.frames == 1)
    if entry.is_image:
        if (bucket := fitting(1, *size, among=images)) is not None:
            yield Clip(path=path, entry=entry, bucket=bucket, fps=RATES[0], stamps=None)
        return
    rate, seconds = normal_rate(media.fps), media.seconds
    inside = np.flatnonzero((seconds >= entry.start) & (seconds < entry.end))
    if rate is None or not len(inside):
        return
    films = tuple(b for b in among if b.frames > 1)
    rest = media.stamps[inside][nearest(seconds[inside], rate.exact)]
    while (bucket := fitting(len(rest), *size, among=films)) is not None:
        stamps, rest = np.split(rest, [bucket.frames])
        yield Clip(path=path, entry=entry, bucket=bucket, fps=rate.nominal, stamps=stamps)


def _reason(media: Media, among: tuple[Bucket, ...]) -> str:
    if media.fps and normal_rate(media.fps) is None:
        return SLOW
    fits = fitting(ENDLESS, media.height, media.width, among=among)
    return SMALL if fits is None else SHORT
