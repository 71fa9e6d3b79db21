"""Frame rates made alike, as in SkyReels-V2 (arXiv 2504.13074): 16 or 24 frames a second.

The rate is f* = argmin over f in {16, 24} of (fps mod f); ties, of which the paper says nothing, go
to 24. Frames are left out by their time stamps, never made up. The paper's rates are whole
numbers: those of television, 1000/1001 of one (23.976, 29.97), count as it.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

RATES = (24, 16)  # the first of two that are as good
SLOWEST = min(RATES)
ROUNDING = 0.005  # of a rate


class Rate(NamedTuple):
    """nominal: 16 or 24; exact: frames a second to take of the file, so that of 23.976 all are."""

    nominal: int
    exact: float


def normal_rate(fps: float) -> Rate | None:
    """Returns the rate that a film of `fps` frames a second becomes; None: it is too slow."""
    whole = round(fps)
    stated = whole if abs(fps - whole) <= ROUNDING * fps else fps
    if stated < SLOWEST:
        return None
    rate = min(RATES, key=lambda f: stated % f)
    return Rate(rate, fps * rate / stated)


def nearest(seconds: Float[np.ndarray, " F"], rate: float) -> Int[np.ndarray, " n"]:
    """Returns the indices of the frames nearest to times `rate` a second, from the first frame to
    the last. seconds: when each frame is shown, rising.
    """
    count = int((seconds[-1] - seconds[0]) * rate + 1e-3) + 1
    times = seconds[0] + np.arange(count) / rate
    after = np.clip(np.searchsorted(seconds, times), 1, max(len(seconds) - 1, 1))
    if len(seconds) == 1:
        return np.zeros(count, int)
    return after - (times - seconds[after - 1] <= seconds[after] - times)
