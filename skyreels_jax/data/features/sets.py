"""Finished feature sets as they are read: bucket by bucket, at random."""

import collections
import dataclasses
import functools
import os
import pathlib
from collections.abc import Sequence
from typing import Any

import grain
import numpy as np
from jaxtyping import Float, Int

from skyreels_jax.core.errors import UserError
from skyreels_jax.data.buckets import Bucket
from skyreels_jax.data.features.manifest import NULL, Made, Shard, complete
from skyreels_jax.data.features.record import STATES, unpack

OTHER_FILES = 512  # that a run may have open beside features
UNSTATED = "none"  # the subject type of clips whose captions state none


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Table:
    """All clips of a bucket: a source of `record.unpack`'s samples.

    ids, fps, subject_types: of each clip in order, known without reading it.
    """

    files: tuple[str, ...]
    ids: tuple[str, ...]
    fps: Int[np.ndarray, " N"]
    subject_types: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.fps)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return unpack(self._records[index])

    @functools.cached_property
    def _records(self) -> grain.sources.ArrayRecordDataSource:
        return grain.sources.ArrayRecordDataSource(self.files)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class FeatureSets:
    """What one or several folders hold together.

    made: of the first of them; all have its encoders.
    null: states of the empty caption, bfloat16.  tokens: of the longest caption.
    """

    made: Made
    tables: dict[Bucket, Table]
    null: Float[np.ndarray, "S E"]
    tokens: int


def read_features(folders: Sequence[str | os.PathLike[str]]) -> FeatureSets:
    """Returns the clips of all `folders`.

    Raises `UserError` for a folder without a finished set, for sets of other encoders than the
    first one's, and for sets without a clip.
    """
    shards: dict[Bucket, list[tuple[pathlib.Path, Shard]]] = collections.defaultdict(list)
    made, null = None, None
    for folder in map(pathlib.Path, folders):
        for path, manifest in complete(folder):
            made = made or manifest.made
            if manifest.made.encoders != made.encoders:
                raise UserError(
                    f"the features in {folder} were made by another VAE or text encoder than those "
                    f"in {folders[0]}"
                )
            null = np.load(path / NULL).view(STATES) if null is None else null
            for shard in manifest.shards:
                shards[shard.bucket].append((path, shard))
    if made is None or null is None or not shards:
        raise UserError(f"no clips in {', '.join(map(str, folders)) or 'no folder'}")
    every = [shard for found in shards.values() for _, shard in found]
    _allow_open(len(every))
    return FeatureSets(
        made=made,
        tables={bucket: _table(found) for bucket, found in sorted(shards.items())},
        null=null,
        tokens=max(len(null), *(shard.tokens for shard in every)),
    )


def _allow_open(files: int) -> None:
    """Lets this process keep so many files open: a shard that was read once stays so.

    Raises `UserError` where the machine does not allow it.
    """
    import resource  # which Windows does not have: whoever reads no features needs none

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = files + OTHER_FILES
    if soft == resource.RLIM_INFINITY or wanted <= soft:
        return
    if hard != resource.RLIM_INFINITY and wanted > hard:
        raise UserError(
            f"{files} files of features, and this machine lets a process open {hard}; raise that "
            "limit (ulimit -Hn)"
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _table(shards: Sequence[tuple[pathlib.Path, Shard]]) -> Table:
    return Table(
        # With its number of records a file is opened when one of them is read.
        files=tuple(f"{path / shard.file}[0:{len(shard.ids)}]" for path, shard in shards),
        ids=tuple(id for _, shard in shards for id in shard.ids),
        fps=np.concatenate([np.array(shard.fps, int) for _, shard in shards]),
        subject_types=tuple(
            kind or UNSTATED for _, shard in shards for kind in shard.subject_types
        ),
    )
