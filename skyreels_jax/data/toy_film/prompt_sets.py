"""Sets of scenes whose subjects move, for whoever asks a model for films to compare their motion.

Who compares films without their captions, as a reward model does, cannot know that one was to stand
still: told to prefer that in a few captions, it is wrong in them, or worse in all others
(docs/log.md, 2026-11-29).
"""

import itertools
from collections import defaultdict
from collections.abc import Iterator

from skyreels_jax.core.errors import UserError
from skyreels_jax.data.toy_film.world import ATTRIBUTES, HELD_OUT_PAIRS, Scene, sample_scene

# Over what each set is balanced. "balanced": all subjects alike. "motion": all ways to move alike,
# at both speeds, before a camera that moves or does not.
SETS = {"balanced": ("colour", "shape"), "motion": ("direction", "speed")}
APART = 1_000_000  # seeds between the sets' first ones: drawn from the same, they share most scenes


def moving_scenes(seed: int, split: str) -> Iterator[tuple[int, Scene]]:
    """Yields seeds from `seed` on, without end, and the scenes that `sample_scene` draws from them,
    without those whose subjects are told to stay still.
    """
    for drawn in itertools.count(seed):
        scene = sample_scene(drawn, split)
        if scene.moves:
            yield drawn, scene


def scene_set(name: str, count: int, *, seed: int = 0, split: str = "train") -> list[Scene]:
    """Returns `count` scenes of the set `name`; the same arguments give the same ones.

    Each value of the set's attributes comes up as often as any other (to within one), all else is
    as `moving_scenes` has it; no scene is of another split. Two sets share no draw.
    Raises `UserError` for an unknown set.
    """
    if name not in SETS:
        raise UserError(f"no prompt set {name!r}; legal: {', '.join(SETS)}")
    names = SETS[name]
    cells = [cell for cell in itertools.product(*(ATTRIBUTES[n] for n in names)) if _legal(cell)]
    waiting: dict[tuple[str, ...], list[Scene]] = defaultdict(list)
    drawn = moving_scenes(seed + APART * list(SETS).index(name), split)
    chosen: list[Scene] = []
    while len(chosen) < count:
        cell = cells[len(chosen) % len(cells)]
        while not waiting[cell]:
            _, scene = next(drawn)
            waiting[tuple(getattr(scene, n) for n in names)].append(scene)
        chosen.append(waiting[cell].pop(0))
    return chosen


def _legal(cell: tuple[str, ...]) -> bool:
    """Returns whether training may show these values together; standing still is no motion."""
    return "still" not in cell and not any(cell in pairs for pairs in HELD_OUT_PAIRS.values())
