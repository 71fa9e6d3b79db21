"""Stories: films whose prompt changes, each part judged against its own prompt.

A film goes on in the same world. What the world lets change while it goes on is how the subject
moves and how the camera does: these change by default (`CHANGES`), and the new value always is one
that can be told from the old one at any moment (`lasting.py`: "left" after "right" cannot). Who
the subject is, where it is and how it is lit stay, unless they are asked to change as well; a
subject that turns into another is not a thing of this world, and no training clip shows one.
Results are kept apart by attribute, changed or not.
"""

import dataclasses
import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from skyreels_jax.core.config import suggest
from skyreels_jax.core.errors import UserError
from skyreels_jax.data.toy_film import world
from skyreels_jax.data.toy_film.world import NO_SPEED, Scene, sample_scene, split_of
from skyreels_jax.evals.drift import number, rounded, verdict
from skyreels_jax.evals.lasting import lasting
from skyreels_jax.evals.seconds import Frames, Judged, Second, judge_seconds, mean_right

CHANGES = ("direction", "speed", "camera_motion")
SEGMENTS = 3
_TRIES = 300  # scenes that are looked at for one that may follow another
KEPT = 0.80  # at least: a segment's adherence as a share of that of single clips


def check_changes(text: str) -> tuple[str, ...]:
    """Returns the attributes of a comma-separated list, or "all"; `UserError` for others."""
    if text == "all":
        return tuple(world.ATTRIBUTES)
    names = tuple(name.strip() for name in text.split(","))
    for name in names:
        if name not in world.ATTRIBUTES:
            raise UserError(f"no attribute {name!r} to change{suggest(name, world.ATTRIBUTES)}")
    return names


def make_stories(
    split: str, num: int, *, seed: int = 0, changes: Sequence[str] = CHANGES
) -> list[tuple[Scene, ...]]:
    """Returns `num` stories of SEGMENTS scenes of a split each; (split, seed) determine them.

    From segment to segment all of `changes` change, in a way that can be told at any moment, and
    nothing else does. A still subject has no speed to change: its direction must change too.
    Raises `UserError` if there are no such scenes.
    """
    stories = []
    for candidate in range(seed, seed + 100 * (num + 1)):
        story = [sample_scene(candidate, split)]
        while len(story) < SEGMENTS:
            after = _changed(story[-1], split, (candidate, len(story)), changes)
            if after is None:
                break
            story.append(after)
        else:
            stories.append(tuple(story))
        if len(stories) == num:
            return stories
    raise UserError(
        f"no {num} stories of {split} scenes in which {', '.join(changes)} change; "
        "let direction and speed change together, or more"
    )


def group_stories(scenes: Sequence[Scene]) -> list[tuple[Scene, ...]]:
    """Returns scenes from a file as stories, SEGMENTS after each other."""
    if not scenes or len(scenes) % SEGMENTS:
        raise UserError(
            f"{len(scenes)} captions are no stories of {SEGMENTS}; give {SEGMENTS} lines for each"
        )
    return [tuple(scenes[i : i + SEGMENTS]) for i in range(0, len(scenes), SEGMENTS)]


def _changed(
    before: Scene, split: str, seed: tuple[int, ...], changes: Sequence[str]
) -> Scene | None:
    """Returns a scene of `split` that differs from `before` in all of `changes` and no more."""
    rng = np.random.default_rng([world.SPLITS.index(split), *seed])
    old = lasting(before)
    for _ in range(_TRIES):
        legal = ((name, world.ATTRIBUTES[name]) for name in changes)
        drawn = {name: values[rng.integers(len(values))] for name, values in legal}
        values = world.attributes(before) | drawn
        if "speed" in changes and values["direction"] == "still":
            values["speed"] = NO_SPEED
        if (values["direction"] == "still") != (values["speed"] == NO_SPEED):
            continue
        scene = Scene(**values)
        new = lasting(scene)
        if all(new[name] != old[name] for name in changes) and split_of(scene) == split:
            return scene
    return None


def judge_segments(
    chunks: Iterable[tuple[int, Frames]], *, left_out: int
) -> Iterator[tuple[int, tuple[Second, ...]]]:
    """Yields each segment of a film and what its seconds show.

    chunks: (number of the segment, frames made for it), in order.
    left_out: of every segment but the first, so many frames are not judged: they were made from
    what the prompt before showed, and both may be seen in them.
    """
    for place, (segment, group) in enumerate(itertools.groupby(chunks, key=lambda c: c[0])):
        frames = (chunk for _, chunk in group)
        yield segment, tuple(judge_seconds(_without(frames, left_out if place else 0)))


def _without(chunks: Iterable[Frames], count: int) -> Iterator[Frames]:
    for chunk in chunks:
        rest = chunk[count:]
        count -= len(chunk) - len(rest)
        if len(rest):
            yield rest


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class StoryReport:
    """Stories in one setting beside single clips of the same prompts.

    stories: a tuple of segments each, in their order; clips: the same scenes, one film each.
    """

    name: str
    stories: tuple[tuple[Judged, ...], ...]
    clips: tuple[tuple[Judged, ...], ...]

    @property
    def changes(self) -> tuple[str, ...]:
        """Attributes that change, for all to see, from segment to segment of any story."""
        pairs = [p for story in self.stories for p in itertools.pairwise(story)]
        wanted = [(lasting(before.scene), lasting(after.scene)) for before, after in pairs]
        return tuple(n for n in world.ATTRIBUTES if any(a[n] != b[n] for a, b in wanted))

    def adherence(self, segment: int | None = None) -> dict[str, float]:
        """Share of the seconds of a segment (of all) that are right by attribute, and the mean.

        A segment counts the same however many seconds were judged.
        """
        return _adherence(self.stories, segment)

    def single(self, segment: int | None = None) -> dict[str, float]:
        """The same of single clips with the prompts of that segment (of all)."""
        return _adherence(self.clips, segment)

    def kept(self, segment: int | None = None, names: Sequence[str] | None = None) -> float:
        """Adherence as a share of that of single clips; `names`: of these attributes alone."""
        ours, single = self.adherence(segment), self.single(segment)
        names = world.ATTRIBUTES if names is None else names
        sums = [sum(v[n] for n in names if single[n] == single[n]) for v in (ours, single)]
        return sums[0] / sums[1] if sums[1] else math.nan

    def summary(self) -> dict[str, Any]:
        """Returns adherence, that of single clips, and their ratios, json-ready (NaN is None)."""
        segments = range(len(self.stories[0]))
        return {
            "stories": len(self.stories),
            "changes": list(self.changes),
            "kept": rounded(self.kept()),
            "kept_target": KEPT,
            "kept_by_segment": [rounded(self.kept(i)) for i in segments],
            "kept_of_changes": rounded(self.kept(names=self.changes)),
            "adherence": _all_rounded(self.adherence()),
            "single": _all_rounded(self.single()),
            "segments": [_all_rounded(self.adherence(i)) for i in segments],
            "single_segments": [_all_rounded(self.single(i)) for i in segments],
        }

    def records(self) -> list[list[dict[str, Any]]]:
        """Returns, by story and part, what was asked for and what the seconds show, json-ready."""
        return [
            [
                {
                    "prompt": part.prompt,
                    "seed": part.seed,
                    "wanted": world.attributes(part.scene),
                    "seconds": [second.shown for second in part.seconds],
                    "single": [second.shown for second in clip.seconds],
                }
                for part, clip in zip(parts, clips, strict=True)
            ]
            for parts, clips in zip(self.stories, self.clips, strict=True)
        ]

    def table(self) -> str:
        """Returns the summary as text: attribute by attribute, segment by segment."""
        segments = range(len(self.stories[0]))
        names = [*world.ATTRIBUTES, "mean"]
        columns = [self.single(), *(self.adherence(i) for i in segments), self.adherence()]
        heads = ["clips", *(f"part {i + 1}" for i in segments), "story", "kept"]
        lines = [f"{self.name:<17}" + "".join(f"{head:>8}" for head in heads)]
        for name in names:
            ratio = columns[-1][name] / columns[0][name] if columns[0][name] else math.nan
            row = "".join(f"{number(values[name], '.3f'):>8}" for values in columns)
            mark = " *" if name in self.changes else ""
            lines.append(f"{name + mark:<17}{row}{number(ratio, '.3f'):>8}")
        parts = ", ".join(number(self.kept(i), ".3f") for i in segments)
        changes = number(self.kept(names=self.changes), ".3f")
        worst = min(self.kept(i) for i in segments)
        lines.append(f"kept by part {parts}; of what changes (*) {changes}")
        lines.append(f"target: every part >= {KEPT:.2f} of clips: {verdict(worst >= KEPT)}")
        return "\n".join(lines)


def _adherence(films: Sequence[Sequence[Judged]], segment: int | None) -> dict[str, float]:
    """Returns the mean over segments of the share of their seconds that are right."""
    parts = [p for film in films for i, p in enumerate(film) if segment in (None, i)]
    shares = [mean_right(part.right()) for part in parts]
    means = {}
    for name in world.ATTRIBUTES:
        found = [share[name] for share in shares if share[name] == share[name]]
        means[name] = float(np.mean(found or [np.nan]))
    return means | {"mean": float(np.nanmean(list(means.values())))}


def _all_rounded(values: dict[str, float]) -> dict[str, float | None]:
    return {name: rounded(value) for name, value in values.items()}
