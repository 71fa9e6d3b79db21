"""Pairs without people: a clip that moves well, and a distorted twin of it.

SkyReels-V2 (arXiv 2504.13074, section on reinforcement learning): the rejected clip is the chosen
one, distorted, mildly to strongly; pairs that differ in anything but motion are dropped.
"""

import collections
import dataclasses
import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import numpy as np

from skyreels_jax.core.config import suggest
from skyreels_jax.core.errors import UserError
from skyreels_jax.data.preferences.distortions import DISTORTIONS, check_strength, distort
from skyreels_jax.data.preferences.model_kinds import ANEW, MODEL_KINDS
from skyreels_jax.data.preferences.records import (
    AXES,
    Clip,
    Limits,
    Preference,
    Score,
    comparable,
)


class Maker(NamedTuple):
    """A model, which makes the twins of `MODEL_KINDS` and shows all others as its films look.

    remake: kind, clip, prompt, strength, seed -> the clip made again.
    reconstruct: a clip as the model's decoder shows it: a reward is to tell the model's films apart
    by how they move, and is to know how they look.
    """

    remake: Callable[[str, Clip, str, float, int], Clip]
    reconstruct: Callable[[Clip], Clip]


class Original(NamedTuple):
    """A clip that moves well."""

    id: str
    video: Clip
    prompt: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class TwinsConfig:
    """Which twins are made.

    kinds: of `DISTORTIONS` and `MODEL_KINDS`. strengths: each in (0, 1]; `ANEW` know only 1.
    per_clip: twins of each clip; they take kinds and strengths in turn.
    limits: on all other axes, see `Limits`. seed: of the first twin, the next has the next.
    Raises `UserError` for anything else.
    """

    kinds: tuple[str, ...] = tuple(DISTORTIONS)
    strengths: tuple[float, ...] = (0.25, 0.5, 1.0)
    per_clip: int = 1
    limits: Limits = Limits()
    seed: int = 0

    def __post_init__(self):
        legal = (*DISTORTIONS, *MODEL_KINDS)
        for kind in self.kinds:
            if kind not in legal:
                raise UserError(f"no distortion {kind!r}{suggest(kind, legal)}")
        for strength in self.strengths:
            check_strength(strength)
        if not self.kinds or not self.strengths or self.per_clip < 1 or self.seed < 0:
            raise UserError("twins need a kind, a strength, per_clip >= 1 and seed >= 0")

    @property
    def variants(self) -> list[tuple[str, float]]:
        """All (kind, strength), the kind changing fastest."""
        every = [(k, s) for s in self.strengths for k in self.kinds if k not in ANEW]
        return every + [(k, 1.0) for k in self.kinds if k in ANEW]


def twins(
    clips: Iterable[Original],
    config: TwinsConfig,
    *,
    score: Score,
    maker: Maker | None = None,
    dropped: collections.Counter | None = None,
) -> Iterator[Preference]:
    """Returns a pair for every twin of every clip that is comparable with it, see `comparable`.

    score: measures a clip on `AXES`. maker: makes the twins of `MODEL_KINDS`; both clips of every
    pair are then as its decoder shows them.
    dropped: counts what is left out, twins that came out like their original ("same") included.
    Raises `UserError` for a kind that needs a `maker`, and when no pair is left.
    """
    needs_model = [kind for kind in config.kinds if kind in MODEL_KINDS]
    if needs_model and maker is None:
        raise UserError(
            f"{needs_model[0]} is made by a model; legal without one: {', '.join(DISTORTIONS)}"
        )
    dropped = collections.Counter() if dropped is None else dropped
    made = _every_twin(clips, config, score, maker, dropped)
    return comparable(made, config.limits, dropped=dropped)


def _every_twin(
    clips: Iterable[Original],
    config: TwinsConfig,
    score: Score,
    maker: Maker | None,
    dropped: collections.Counter,
) -> Iterator[Preference]:
    variants, seeds = itertools.cycle(config.variants), itertools.count(config.seed)
    for clip in clips:
        chosen = clip.video if maker is None else maker.reconstruct(clip.video)
        original = score(chosen, clip.prompt)
        for kind, strength in itertools.islice(variants, config.per_clip):
            seed = next(seeds)
            if kind in MODEL_KINDS:
                rejected = maker.remake(kind, clip.video, clip.prompt, strength, seed)
            else:
                rejected = distort(kind, clip.video, strength=strength, seed=seed)
                if np.array_equal(rejected, clip.video):  # a still subject has nothing to reverse
                    dropped["same"] += 1
                    continue
                rejected = rejected if maker is None else maker.reconstruct(rejected)
            measured = score(rejected, clip.prompt)
            yield Preference(
                id=f"{clip.id}/{kind}-{strength:g}-{seed}",
                chosen=chosen,
                rejected=rejected,
                label="better",
                source=kind,
                prompt=clip.prompt,
                scores={axis: (float(original[axis]), float(measured[axis])) for axis in AXES},
                strength=strength,
            )
