"""Clips as they are found: some of them move badly, whatever their captions say.

A model learns that from them as it learns the rest, and then does it now and again: what learning
from preferences is there to take away. Which clip has which fault hangs on its seed alone, and on
what `DISTORTIONS` there are.
"""

from typing import NamedTuple

import numpy as np

from skyreels_jax.data.preferences.distortions import distort
from skyreels_jax.data.preferences.warp import Clip

# (kind, strength) of `DISTORTIONS`: too little motion, motion that ends, motion that shakes. A film
# shows these by itself; that it runs backwards or too fast, often only one who knows what it was
# told can see, and a reward does not (nor does the paper's).
FAULTS = (("too_slow", 1.0), ("freeze", 0.5), ("freeze", 0.75), ("jitter", 1.0))
_STREAM = 78  # of random numbers, beside those of scenes and turns


class Fault(NamedTuple):
    """What is wrong with a clip: one of `FAULTS`, with its own random numbers."""

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
    kind, strength = FAULTS[rng.integers(len(FAULTS))]
    return Fault(kind, strength, seed)
