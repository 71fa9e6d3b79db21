"""How often the clips of each bucket are drawn, so that all clips come up as often as they should.

At a step all clips are of one bucket. Where a bucket is drawn in proportion to (clips it holds) /
(clips of a batch of it), every clip is seen as often as every other. With `balance` clips have
weights (`data.selection`), and a bucket is drawn in proportion to the sum of those of its clips.
Images and videos are drawn apart, in given shares of the steps: were both in one step, there would
be a program to compile for every pair of buckets, and the optimizer averages over steps anyway.
"""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from jaxtyping import Int

from skyreels_jax.core.errors import UserError
from skyreels_jax.data.buckets import Bucket
from skyreels_jax.data.features.sets import UNSTATED, Table
from skyreels_jax.data.selection import Balance, Group, describe, grouped, keep_rate

ATTRIBUTE = "subject_type"


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Draw:
    """A bucket: its share of the steps, clips of a batch, and (share, clips) of its groups."""

    bucket: Bucket
    share: float
    batch: int
    groups: Sequence[tuple[float, Int[np.ndarray, " _"]]]


def described(draw: Draw, table: Table) -> str:
    """Returns what the order of a bucket's batches hangs on beside a seed; clips, their order and
    their weights as a hash.
    """
    clips = [(share, [table.ids[index] for index in indices]) for share, indices in draw.groups]
    digest = hashlib.sha256(json.dumps(clips).encode()).hexdigest()[:12]
    count = sum(len(indices) for _, indices in draw.groups)
    return f"batches of {draw.batch} of {count} clips ({digest})"


def draws(
    tables: Mapping[Bucket, Table],
    batch: Callable[[Bucket], int],
    *,
    images: float = 0.0,
    fps: int = 0,
    balance: Balance | None = None,
) -> list[Draw]:
    """Returns how each bucket of `tables` is drawn; the shares add up to 1. Prints it.

    batch: clips at a step.  images: share of the steps that are of images.
    fps: only clips of this many frames a second (0: all).  balance: by subject type, among videos
    and among images.
    Raises `UserError` where nothing is left to draw, and for names that no clip has.
    """
    found = []
    for name, share in (("images", images), ("videos", 1.0 - images)):
        some = {b: t for b, t in tables.items() if (b.frames == 1) == (name == "images")}
        if share and not some:
            raise UserError(
                f"data.images = {images:g}: {share:.0%} of the steps would be of {name}, and there "
                f"are none among {', '.join(map(str, tables)) or 'the clips'}; legal: 0 for videos "
                "alone, 1 for images alone"
            )
        if share:
            try:
                groups = _groups(some, fps, balance or Balance())
            except UserError as error:
                raise UserError(f"{name}: {error}") from None
            print(f"{name}: {describe(groups)}")
            found += _drawn(some, groups, batch, share)
    return found


def _groups(tables: Mapping[Bucket, Table], fps: int, balance: Balance) -> list[Group]:
    """Returns groups of clips, numbered on through all `tables`."""
    kept = keep_rate(np.concatenate([table.fps for table in tables.values()]), fps)
    if not balance.attribute:
        return [Group("all", 1.0, kept)]
    values = [kind for table in tables.values() for kind in table.subject_types]
    legal = sorted({values[index] for index in kept})
    targets = balance.targets({ATTRIBUTE: legal})
    if legal == [UNSTATED]:
        raise UserError(
            "data.balance: no caption of these says a subject_type; encode such, or leave the "
            "balance out (--set data.balance.attribute='')"
        )
    return grouped(values, targets, kept)


def _drawn(
    tables: Mapping[Bucket, Table],
    groups: Sequence[Group],
    batch: Callable[[Bucket], int],
    share: float,
) -> list[Draw]:
    found, first = [], 0
    for bucket, table in tables.items():
        inside = []
        for group in groups:
            own = group.indices[(group.indices >= first) & (group.indices < first + len(table))]
            if len(own):
                inside.append((group.share * len(own) / len(group.indices), own - first))
        first += len(table)
        if inside:
            steps = sum(weight for weight, _ in inside) / batch(bucket)
            found.append(Draw(bucket=bucket, share=steps, batch=batch(bucket), groups=inside))
    total = sum(draw.share for draw in found)
    return [dataclasses.replace(draw, share=share * draw.share / total) for draw in found]
