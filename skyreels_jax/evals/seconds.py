"""A film of any length second by second, judged while it is made, in constant memory.

What a second shows is judged on the STRETCH of frames around it (33: a second either side of it,
nearly), because twelve frames of a film with a model's blur and noise do not tell every motion of
the camera; colour and brightness are measured on the second's own frames.
"""

import dataclasses
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from jaxtyping import Float, UInt8

from skyreels_jax.core.errors import UserError
from skyreels_jax.data.toy_film import world
from skyreels_jax.data.toy_film.world import Scene
from skyreels_jax.evals.judge import world_size
from skyreels_jax.evals.lasting import STRETCH, judge_stretch, right

SECOND = world.FPS  # frames
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)

Frames = UInt8[np.ndarray, "_F H W 3"]  # chunks of any lengths


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Second:
    """What a second of a film shows.

    index: which; the first is 0. shown, presence, flicker, consistency: as in `Stretch`.
    colour: mean (red, green, blue) of the subject in levels; None where it is not seen.
    brightness: mean luma of the frames in levels. frame: the one in the middle.
    """

    index: int
    shown: dict[str, str]
    presence: float
    flicker: float
    consistency: float
    colour: Float[np.ndarray, "3"] | None
    brightness: float
    frame: UInt8[np.ndarray, "H W 3"]


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Judged:
    """A film that was asked for, and what its whole seconds show."""

    scene: Scene
    prompt: str
    seed: int
    seconds: tuple[Second, ...]

    def right(self) -> list[dict[str, bool]]:
        """Returns for every second which attributes are as asked for."""
        return [right(self.scene, second.shown) for second in self.seconds]


def judge_seconds(chunks: Iterable[Frames]) -> Iterator[Second]:
    """Yields what each whole second of a film shows, as soon as the frames around it are there.

    The stretch of a second is in the middle of it, but at the film's start and end the first and
    last STRETCH frames; of a shorter film it is the whole, 5 frames or more. No more frames are
    kept than a chunk and two stretches. Raises `UserError` as `judge_stretch` does.
    """
    kept, start, index = None, 0, 0
    for chunk in chunks:
        kept = chunk if kept is None else np.concatenate([kept, chunk])
        while (begin := _begin(index)) + STRETCH <= start + len(kept):
            yield _second(kept, index, begin - start, start)
            index += 1
        unused = min(_begin(index), start + len(kept) - STRETCH) - start
        if unused > 0:
            kept, start = kept[unused:], start + unused
    if kept is None:
        return
    total = start + len(kept)
    check_second(total)
    while (index + 1) * SECOND <= total:
        yield _second(kept, index, max(0, total - STRETCH - start), start)
        index += 1


def check_second(frames: int) -> None:
    """Raises `UserError` for a film of so many frames if that is no whole second."""
    if frames < SECOND:
        raise UserError(f"a film of {frames} frames has no whole second, {SECOND} frames, to judge")


def mean_right(outcomes: Sequence[dict[str, bool]]) -> dict[str, float]:
    """Returns the share of outcomes that are right for each attribute, and the `mean` of these.

    NaN for what none of them can tell, which the mean leaves out.
    """
    shares = {
        name: float(np.mean([found[name] for found in outcomes if name in found] or [np.nan]))
        for name in world.ATTRIBUTES
    }
    return shares | {"mean": float(np.nanmean(list(shares.values())))}


def _begin(index: int) -> int:
    return max(0, index * SECOND + SECOND // 2 - STRETCH // 2)


def _second(kept: np.ndarray, index: int, begin: int, start: int) -> Second:
    """Returns second `index` judged on frames `begin` on of `kept`, which is frames `start` on."""
    stretch = kept[begin : begin + STRETCH]
    judged = judge_stretch(stretch)
    first = index * SECOND - start
    own = world_size(kept[first : first + SECOND])
    inside = judged.inside[first - begin : first - begin + SECOND]
    return Second(
        index=index,
        shown=judged.shown,
        presence=judged.presence,
        flicker=judged.flicker,
        consistency=judged.consistency,
        colour=own[inside].mean(0).astype(np.float64) if inside.any() else None,
        brightness=float((own.mean((0, 1, 2)) * _LUMA).sum()),
        frame=kept[first + SECOND // 2].copy(),  # not a view, which keeps all the others
    )
