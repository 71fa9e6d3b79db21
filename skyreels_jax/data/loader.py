"""Grain pipelines: shuffled, endless, with a position that can be saved and set exactly.

The order is a function of (seed, epoch), every random choice one of (seed, position): a batch is
the same whether the run that asks for it was stopped and resumed or not.

Clips in groups (by concept, say) are drawn in fixed proportions: of the first k draws, each group
has its share, to within two and what rounding shares to hundredths of the smallest makes. Each
group has epochs of its own, at its own pace: all its clips once, in a new order every time. So
nothing is left out for good: clips of a group that is larger than its share wait longer for their
next turn, those of a smaller one come again sooner.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import grain
import numpy as np
from jaxtyping import Int

from skyreels_jax.core.errors import UserError
from skyreels_jax.core.types import ALL_ROWS, Rows


@runtime_checkable
class Source(Protocol):
    """Random access to samples: a TFDS data source, a latents store, a list."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Mapping[str, Any]: ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class Part:
    """The samples of `source` at `indices`."""

    source: Source
    indices: Int[np.ndarray, " n"]

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Mapping[str, Any]:
        return self.source[int(self.indices[index])]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Joined:
    """The samples of several sources, one source after the other."""

    sources: Sequence[Source]

    def __len__(self) -> int:
        return sum(map(len, self.sources))

    def __getitem__(self, index: int) -> Mapping[str, Any]:
        for source in self.sources:
            if index < len(source):
                return source[index]
            index -= len(source)
        raise IndexError(index)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Labelled:
    """The samples of `source`, each with its value in every array of `labels` added."""

    source: Source
    labels: Mapping[str, np.ndarray]

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {**self.source[index], **{name: of[index] for name, of in self.labels.items()}}


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Some:
    """Of every `batch` samples those of some blocks of `size` samples."""

    samples: grain.MapDataset
    blocks: Sequence[int]
    size: int
    batch: int

    def __len__(self) -> int:
        return len(self.samples) // self.batch * self.size * len(self.blocks)

    def __getitem__(self, index: int) -> Any:
        number, rest = divmod(index, self.size * len(self.blocks))
        block, row = divmod(rest, self.size)
        return self.samples[number * self.batch + self.blocks[block] * self.size + row]


@dataclasses.dataclass(frozen=True)
class RandomCrop(grain.transforms.RandomMap):
    """Cuts `frames` frames of `size` x `size` pixels out of "video", anywhere; keeps that only.

    "video" is uint8 [T, H, W, 3]; 0 takes all. The result is float32 in [-1, 1].
    """

    frames: int
    size: int

    def random_map(
        self, element: Mapping[str, Any], rng: np.random.Generator
    ) -> dict[str, np.ndarray]:
        video = element["video"]
        length, height, width = video.shape[:3]
        wanted = (self.frames or length, self.size or height, self.size or width)
        if any(w > have for w, have in zip(wanted, (length, height, width), strict=True)):
            raise UserError(
                f"cannot cut {wanted} (frames, height, width) out of clips of {video.shape[:3]}"
            )
        start = [
            int(rng.integers(have - w + 1)) for w, have in zip(wanted, video.shape[:3], strict=True)
        ]
        cut = video[tuple(slice(s, s + w) for s, w in zip(start, wanted, strict=True))]
        return {"video": cut.astype(np.float32) / 127.5 - 1.0}


@dataclasses.dataclass(frozen=True)
class CutLatents(grain.transforms.RandomMap):
    """Turns a latents-store sample into one of a velocity objective: a window of its latents with
    the number of the first ("start"), how many of them are given (0: any number), one of its
    captions, and the empty one. What has a "turn", the latent frame from which on its caption
    holds, is cut anywhere around it, and the latents before it are given. Where a sample states its
    "fps", both captions come with it.

    length: latent frames of the window; 0 takes all.
    middle: probability that the window begins anywhere behind the first latent, else it begins with
    it. The VAE is causal: the first latents of a clip are the latents of its first frames. Latent 0
    is a single frame, each other one four, so windows from the middle are not clips encoded by
    themselves; they are what sampling has in hand when it carries latents from window to window.
    block: so many latents at least are behind a turn.
    """

    null_cond: Mapping[str, np.ndarray]
    length: int = 0
    middle: float = 0.0
    block: int = 1

    def random_map(self, element: Mapping[str, Any], rng: np.random.Generator) -> dict[str, Any]:
        pick = int(rng.integers(len(element["length"])))
        cond = {name: element[name][pick] for name in ("input_ids", "length")}
        told = {"fps": np.int32(element["fps"])} if "fps" in element else {}
        latents, start, given = element["latents"], 0, 0
        length = self.length or len(latents)
        if turn := int(element.get("turn", 0)):
            if turn + self.block > len(latents):
                raise UserError(
                    f"a clip of {len(latents)} latents turns at {turn}, with less than a block of "
                    f"{self.block} behind that"
                )
            first, last = max(0, turn + self.block - length), min(turn - 1, len(latents) - length)
            start = int(rng.integers(first, last + 1))
            given = turn - start
        elif rng.random() < self.middle:
            start = int(rng.integers(1, len(latents) - length + 1))
        return {
            "latents": latents[start : start + length].astype(np.float32),
            "start": np.int32(start),
            "given": np.int32(given),
            "cond": {**cond, **told},
            "null_cond": {**self.null_cond, **told},
        }


def batches(
    source: Source,
    transform: grain.transforms.RandomMap,
    *,
    batch: int,
    seed: int,
    groups: Sequence[tuple[float, Int[np.ndarray, " _"]]] = (),
    rows: Rows = ALL_ROWS,
) -> grain.MapDataset:
    """Returns the endless batches of `source` under `transform`, a new order every epoch.

    groups: (share of the draws, indices into `source`) of each group; none: all of it is one.
    rows: those of every batch that are given, in their order.
    """
    if len(source) == 0:
        raise UserError("the data set is empty")
    parts = [Part(source=source, indices=indices) for _, indices in groups] or [source]
    # The first is seeded as a whole data set is: were all alike, clips would meet in every epoch.
    seeds = [seed, *np.random.SeedSequence(seed).generate_state(len(parts) - 1).tolist()]
    orders = [
        grain.MapDataset.source(part).seed(own).shuffle().repeat()
        for part, own in zip(parts, seeds, strict=True)
    ]
    data = orders[0]
    if len(orders) > 1:
        data = grain.MapDataset.mix(orders, [share for share, _ in groups])
    size = batch // rows.count
    some = Some(samples=data.random_map(transform), blocks=rows.blocks, size=size, batch=batch)
    own = size * len(rows.blocks)
    return grain.MapDataset.source(some).batch(own, drop_remainder=True)


def pipeline(
    source: Source,
    transform: grain.transforms.RandomMap,
    *,
    batch: int,
    rows: Rows = ALL_ROWS,
    threads: int = 2,
    prefetch: int = 8,
    **options: Any,
) -> grain.IterDataset:
    """Returns the stream of `batches`, of which `options` are others.

    Its iterators have `get_state()` and `set_state()`. `threads` read `prefetch` samples ahead
    (numpy releases the interpreter lock where it matters; worker processes cost more than they give
    for small clips).
    """
    data = batches(source, transform, batch=batch, rows=rows, **options)
    own = max(batch // rows.count * len(rows.blocks), 1)
    reading = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=max(prefetch // own, 2))
    return data.to_iter_dataset(reading)
