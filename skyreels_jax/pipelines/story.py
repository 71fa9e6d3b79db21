"""Stories: which prompt holds when, and how one gives way to the next."""

import dataclasses
import itertools
import math
import os
import pathlib
import re
from collections.abc import Iterable, Sequence
from typing import Any

from skyreels_jax.core.errors import UserError
from skyreels_jax.pipelines.prompts import read_prompts

TIMED = re.compile(r"(\d+(?:\.\d+)?)\s*:\s*(\S.*)")  # "12.5: a red ring ..."
Segment = tuple[float, str]
Number = float | int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Story:
    """Prompts with the seconds at which they start, the first at 0; checked when made.

    crossfade: for how many seconds around each start both neighbours are mixed.
    """

    segments: tuple[Segment, ...]
    crossfade: float = 0.0

    def __post_init__(self):
        if not self.segments:
            raise UserError("a story needs a prompt; say in a sentence what the film shows")
        starts = [start for start, _ in self.segments]
        if starts[0] != 0:
            raise UserError(f"the first prompt starts at {starts[0]:g} s; legal: 0")
        for before, after in itertools.pairwise(starts):
            if not before < after:
                raise UserError(f"a prompt starts at {after:g} s after one at {before:g} s")
        shortest = min((b - a for a, b in itertools.pairwise(starts)), default=math.inf)
        if not 0 <= self.crossfade <= shortest:
            raise UserError(
                f"crossfade {self.crossfade:g} is out of range; legal: 0 to {shortest:g}, the "
                "seconds of the shortest segment"
            )

    @property
    def prompts(self) -> tuple[str, ...]:
        """The prompts in their order."""
        return tuple(prompt for _, prompt in self.segments)

    def mixture(self, second: Number) -> tuple[Segment, ...]:
        """Returns what holds at `second`: (weight, prompt), one or two, weights summing to 1."""
        starts = [start for start, _ in self.segments]
        for index, start in enumerate(starts[1:], 1):
            share = 0.5 + (second - start) / self.crossfade if self.crossfade else second >= start
            if share < 1:
                before, after = self.prompts[index - 1 : index + 1]
                return ((1 - share, before), (share, after)) if share > 0 else ((1.0, before),)
        return ((1.0, self.prompts[-1]),)

    def span(self, index: int) -> tuple[float, float]:
        """Returns from when till when prompt number `index` is seen, if faintly."""
        starts = [start for start, _ in self.segments]
        first = starts[index] - self.crossfade / 2 if index else -math.inf
        last = (*starts[1:], math.inf)[index] + self.crossfade / 2
        return first, last

    def check_seconds(self, seconds: Number) -> None:
        """Raises `UserError` for a prompt that a film of so many seconds does not reach."""
        start, prompt = self.segments[-1]
        if start >= seconds:
            raise UserError(
                f"the prompt {prompt[:40]!r} starts at {start:g} s of a film of {seconds:g} s"
            )


def read_segments(prompts: Any) -> list[str] | list[Segment]:
    """Returns the texts, or the (second, text) pairs, of one prompt, of several, or of a file.

    A file (a path; a text is a prompt) holds a prompt a line, or `second: prompt` lines.
    Raises `UserError` for anything else.
    """
    if isinstance(prompts, os.PathLike):
        prompts = parse_lines(read_prompts(pathlib.Path(prompts)), str(prompts))
    alone = isinstance(prompts, str) or not isinstance(prompts, Iterable)
    prompts = [prompts] if alone else list(prompts)
    prompts = [pair if isinstance(pair, str) else _segment(pair) for pair in prompts]
    texts = [pair if isinstance(pair, str) else pair[1] for pair in prompts]
    if not texts or not all(text.strip() for text in texts):
        raise UserError("a prompt is missing or empty; say in a sentence what the film shows")
    if len({isinstance(pair, str) for pair in prompts}) > 1:
        raise UserError("give all prompts with the seconds at which they start, or none")
    return prompts


def make_story(
    segments: list[str] | list[Segment], *, seconds: Number | None, crossfade: Number = 0.0
) -> Story:
    """Returns the story of what `read_segments` returns; texts share the film equally.

    seconds: of the film, None without end.
    Raises `UserError` for shares of a film without end, and for prompts behind its end.
    """
    if isinstance(segments[0], str):
        if len(segments) > 1 and seconds is None:
            raise UserError(
                f"{len(segments)} prompts cannot share a film without end; "
                "give seconds, or say when each starts: 'SECOND: PROMPT'"
            )
        share = (seconds or 0.0) / len(segments)
        segments = [(index * share, text) for index, text in enumerate(segments)]
    pairs = tuple((float(start), text) for start, text in segments)
    story = Story(segments=pairs, crossfade=float(crossfade))
    if seconds is not None:
        story.check_seconds(seconds)
    return story


def parse_lines(lines: Sequence[str], name: str) -> list[str] | list[Segment]:
    """Returns lines as they are, or all as (second, prompt); `UserError` where only some are."""
    found = [TIMED.fullmatch(line) for line in lines]
    if not any(found):
        return list(lines)
    for line, match in zip(lines, found, strict=True):
        if match is None:
            raise UserError(f"{name!r} has lines 'SECOND: PROMPT' and this one: {line[:40]!r}")
    return [(float(match[1]), match[2]) for match in found]


def _segment(pair: Any) -> Segment:
    match pair:
        case (int() | float() as start, str() as prompt):
            return float(start), prompt
    raise UserError(f"a story is made of prompts or of (second, prompt) pairs, got {pair!r}")
