"""Clips as they are found: some of them move badly, whatever their captions say.

A model learns that from them as it learns the rest, and then does it now and again: what learning
from preferences is there to take away. Which clip has which fault hangs on its seed alone, and on
what `DISTORTIONS` there are.
"""

from typing import NamedTuple

import numpy as np

from skyreels_jax.data.preferences.distortions import DISTORTIONS, distort
from skyreels_jax.data.preferences.warp import Clip

STRENGTHS = (0.5, 1.0)
_STREAM = 78  # of random numbers, beside those of scenes and turns


class Fault(NamedTuple):
    """What is wrong with a clip: one of `DISTORTIONS`, and how strong it is."""

    kind: str
    strength: float
    seed: int

    def of(self, clip: Clip) -> Clip:
        """Returns `clip` with the fault."""
        return distort(self.kind, clip, strength=self.strength, seed=self.seed)


def sample_fault(seed: int, *, share: float) -> Fault | None:
    """Returns the fault of training film `seed`, None for all but a `share` of the films."""
    rng = np.random.default_rng([_STREAM, seed])
    if rng.random() >= share:
        return None
    kinds = tuple(DISTORTIONS)
    kind, strength = kinds[rng.integers(len(kinds))], STRENGTHS[rng.integers(len(STRENGTHS))]
    return Fault(kind, strength, seed)
