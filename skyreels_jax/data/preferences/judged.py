"""Pairs of a model's own films, labelled: of two films of one text, which moves better.

SkyReels-V2 (arXiv 2504.13074, section on reinforcement learning) trains its reward on films of its
own that people compared, beside distorted twins. ToyFilm's judge is the people.
"""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from skyreels_jax.core.errors import UserError
from skyreels_jax.data.preferences.records import AXES, Clip, Preference, Score

SOURCE = "films"  # of these pairs


class Told(NamedTuple):
    """Films of one text, and how well each of them moves, of 1."""

    id: str
    prompt: str
    films: Sequence[Clip]
    motion: Sequence[float]


class Verdicts(NamedTuple):
    """When there is a label: films at least `clear` apart are better and worse, those at most
    `alike` apart a tie; what lies between has none. `most`: pairs of one text, drawn at random.
    """

    clear: float = 0.1
    alike: float = 0.01
    most: int = 12


def judged_pairs(
    told: Iterable[Told], verdicts: Verdicts, *, score: Score, seed: int
) -> Iterator[Preference]:
    """Yields labelled pairs of the films of every text; the better one of a pair is the chosen one.

    score: measures a film on `AXES`. Raises `UserError` for verdicts that make no sense.
    """
    clear, alike, most = verdicts
    if not 0 <= alike < clear or most < 1:
        raise UserError(
            f"verdicts need 0 <= alike < clear and most >= 1, got {alike:g}, {clear:g}, {most}"
        )
    for number, one in enumerate(told):
        scores = [score(film, one.prompt) for film in one.films]
        pairs = list(itertools.combinations(range(len(one.films)), 2))
        kept = 0
        for index in np.random.default_rng([seed, number]).permutation(len(pairs)):
            first, second = sorted(pairs[index], key=lambda film: -one.motion[film])
            apart = one.motion[first] - one.motion[second]
            if alike < apart < clear or np.array_equal(one.films[first], one.films[second]):
                continue
            yield Preference(
                id=f"{one.id}/{first}-{second}",
                chosen=one.films[first],
                rejected=one.films[second],
                label="better" if apart >= clear else "tie",
                source=SOURCE,
                prompt=one.prompt,
                scores={axis: (scores[first][axis], scores[second][axis]) for axis in AXES},
            )
            kept += 1
            if kept == most:
                break
