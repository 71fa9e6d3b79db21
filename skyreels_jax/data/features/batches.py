"""Batches of one bucket after another, in an order that is a function of the seed alone."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import grain
import numpy as np
from jaxtyping import Float, Int

from skyreels_jax.data.features.record import padded


@dataclasses.dataclass(frozen=True, kw_only=True)
class ToldClip(grain.transforms.RandomMap):
    """Turns a clip of a feature set into a sample of a velocity objective: its latents, one of its
    captions, and its rate where the model is told rates.

    size: tokens that all texts are padded to; max_length: those that the official pipelines pad to.
    """

    size: int
    max_length: int
    tells_fps: bool

    def random_map(self, element: Mapping[str, Any], rng: np.random.Generator) -> dict[str, Any]:
        states = element["context"][int(rng.integers(len(element["context"])))]
        told = {"fps": np.int32(element["fps"])} if self.tells_fps else {}
        return {
            "latents": element["latents"],
            "start": np.int32(0),
            "given": np.int32(0),
            "cond": {**padded(states, self.size, max_length=self.max_length), **told},
        }


@dataclasses.dataclass(frozen=True, kw_only=True)
class WithEmptyCaption(grain.transforms.Map):
    """Gives a batch of `ToldClip` the empty caption, a single row for all of its clips: for each
    of them it would be most of what goes to the devices.
    """

    null: Float[np.ndarray, "S E"]
    size: int
    max_length: int

    def map(self, batch: dict[str, Any]) -> dict[str, Any]:
        text = padded(self.null, self.size, max_length=self.max_length)
        null_cond = batch["cond"] | {name: rows[None] for name, rows in text.items()}
        return {**batch, "null_cond": null_cond}


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Turns:
    """Batch k of a run: of data set which[k], the nth[k] of it."""

    datasets: Sequence[grain.MapDataset]
    which: Int[np.ndarray, " steps"]
    nth: Int[np.ndarray, " steps"]

    def __len__(self) -> int:
        return len(self.which)

    def __getitem__(self, step: int) -> Any:
        return self.datasets[self.which[step]][int(self.nth[step])]


def in_turns(
    datasets: Sequence[grain.MapDataset],
    shares: Sequence[float],
    *,
    steps: int,
    seed: int,
    threads: int = 2,
    prefetch: int = 2,
) -> grain.IterDataset:
    """Returns `steps` batches, at each step of a data set drawn at random with the probabilities
    `shares`; the draw of a step does not hang on how many there are.

    datasets: endless, of batches.  `prefetch` batches are made ahead. The position of its iterators
    is a number of steps: the order is known, so one reader serves all buckets.
    """
    ends = np.cumsum(shares) / np.sum(shares)
    drawn = np.random.default_rng(seed).random(steps)
    which = np.minimum(np.searchsorted(ends, drawn, side="right"), len(ends) - 1)
    nth = np.zeros(steps, int)
    for number in range(len(datasets)):
        mine = which == number
        nth[mine] = np.arange(mine.sum())
    turns = Turns(datasets=datasets, which=which, nth=nth)
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=prefetch)
    return grain.MapDataset.source(turns).to_iter_dataset(options)
