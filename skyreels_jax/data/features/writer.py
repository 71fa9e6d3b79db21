"""Writing a part of a feature set: shard by shard, nothing lost when it is stopped."""

import dataclasses
import os
import pathlib
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from skyreels_jax.core.errors import UserError
from skyreels_jax.core.files import replacing
from skyreels_jax.data.buckets import Bucket
from skyreels_jax.data.features.manifest import (
    NULL,
    Made,
    Manifest,
    Shard,
    check_made,
    check_parts,
    part_name,
    read_manifest,
)
from skyreels_jax.data.features.record import pack, to_bits

SHARD_BYTES, SHARD_SECONDS = 1024 * 2**20, 1800.0
OPTIONS = "group_size:1,uncompressed"  # each record by itself; latents are noise to a compressor


class PartWriter:
    """Adds clips to part (index, count) of the set in `folder`; use as a context manager.

    The shard at hand is closed when it is large or old, when the bucket changes, and when the
    manager is left, be it by an exception. A killed process loses that shard alone.
    Raises `UserError` where the part was begun with other encoders or settings, or the set in
    another number of parts.
    """

    def __init__(self, folder: pathlib.Path, part: tuple[int, int], made: Made):
        check_parts(folder, part)
        self.folder = folder / part_name(part)
        manifest = read_manifest(self.folder)
        if manifest is not None:
            check_made(self.folder, manifest.made, made)
        self.manifest = manifest or Manifest(made=made)
        self._open: _Open | None = None

    def __enter__(self) -> "PartWriter":
        self.folder.mkdir(parents=True, exist_ok=True)
        return self

    def __exit__(self, *_: Any) -> None:
        self._close()

    def missing(self, ids: Sequence[str]) -> set[str]:
        """Returns which of all the clips of this part it lacks; `UserError` where it holds others:
        the videos or their captions have changed.
        """
        if strange := len(self.manifest.ids - set(ids)):
            raise UserError(
                f"{self.folder} holds {strange} clips of other videos or captions than there are "
                "now: delete the folder, or name another one"
            )
        return set(ids) - self.manifest.ids

    def write_null(self, states: Float[np.ndarray, "S E"]) -> None:
        """Writes the states of the empty caption."""
        with replacing(self.folder / NULL) as path:
            np.save(path, to_bits(states))

    def add(
        self,
        id: str,
        bucket: Bucket,
        latents: Float[np.ndarray, "T h w C"],
        states: Sequence[Float[np.ndarray, "_ E"]],
        *,
        fps: int,
        subject_type: str,
    ) -> None:
        """Adds a clip, see `record.pack`."""
        if self._open is not None and (self._open.bucket != bucket or self._open.full):
            self._close()
        if self._open is None:
            name = f"{len(self.manifest.shards):05d}-{bucket}.array_record"
            self._open = _Open(self.folder / name, bucket)
        data = pack(latents, states, fps=fps, subject_type=subject_type)
        tokens = max(len(rows) for rows in states)
        self._open.add(data, id=id, fps=fps, subject_type=subject_type, tokens=tokens)

    def finish(self, broken: dict[str, str], *, done: bool) -> None:
        """Writes which files could not be read, and whether these were all clips."""
        self._close()
        self._say(broken=broken, done=done)

    def _close(self) -> None:
        if self._open is not None:
            shard, self._open = self._open.close(), None
            # Anew and whole for each shard: of 100,000 clips it is 5 MB and written in 0.3 s, and
            # a shard is a GiB or half an hour of encoding, which no kill shall lose.
            self._say(shards=(*self.manifest.shards, shard), done=False)

    def _say(self, **changes: Any) -> None:
        self.manifest = dataclasses.replace(self.manifest, **changes)
        self.manifest.write(self.folder)


class _Open:
    """A shard that is being written, aside; `close` moves it into place."""

    def __init__(self, path: pathlib.Path, bucket: Bucket):
        from array_record.python.array_record_module import ArrayRecordWriter

        self.path, self.bucket = path, bucket
        self.partial = path.with_suffix(".partial")
        self.writer = ArrayRecordWriter(str(self.partial), OPTIONS)
        self.bytes, self.since, self.clips = 0, time.monotonic(), []

    @property
    def full(self) -> bool:
        return self.bytes >= SHARD_BYTES or time.monotonic() - self.since >= SHARD_SECONDS

    def add(self, data: bytes, **said: Any) -> None:
        self.writer.write(data)
        self.bytes += len(data)
        self.clips.append(said)

    def close(self) -> Shard:
        self.writer.close()
        os.replace(self.partial, self.path)
        return Shard(
            file=self.path.name,
            bucket=self.bucket,
            ids=tuple(clip["id"] for clip in self.clips),
            fps=tuple(clip["fps"] for clip in self.clips),
            subject_types=tuple(clip["subject_type"] for clip in self.clips),
            tokens=max(clip["tokens"] for clip in self.clips),
        )
