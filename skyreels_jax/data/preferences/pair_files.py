"""Pairs from a file: films that models made, say, with the labels that they have."""

import dataclasses
import json
import pathlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from skyreels_jax.core.config import from_dict
from skyreels_jax.core.errors import UserError
from skyreels_jax.data.preferences.records import SIDES, Clip, Preference, checked_scores


@dataclasses.dataclass(frozen=True, kw_only=True)
class PairRow:
    """A line of a file of pairs; clips are files, relative to its folder."""

    chosen: str
    rejected: str
    label: str
    scores: dict[str, Any]
    id: str = ""
    prompt: str = ""
    source: str = "file"
    strength: float = 0.0


def read_pairs(
    path: pathlib.Path, read_clip: Callable[[pathlib.Path], Clip]
) -> Iterator[Preference]:
    """Yields the pairs of a .jsonl file, one a line (`PairRow`); their id is the line number where
    none is given.

    Raises `UserError` with file and line for the first bad one, and for a file without pairs.
    """
    seen = set()
    for number, row in _rows(path):
        try:
            name = row.id or str(number)
            if name in seen:
                raise UserError(f"a second pair {name!r}; legal: one of each id")
            seen.add(name)
            sides = {side: read_clip(path.parent / getattr(row, side)) for side in SIDES}
            yield Preference(
                id=name,
                label=row.label,
                source=row.source,
                prompt=row.prompt,
                scores=checked_scores(row.scores),
                strength=row.strength,
                **sides,
            )
        except UserError as error:
            raise UserError(f"{path}:{number}: {error}") from None
    if not seen:
        raise UserError(f"{path} holds no pairs; legal: one as json on each line")


def clip_files(path: pathlib.Path) -> list[pathlib.Path]:
    """Returns the files that the pairs of a .jsonl file are made of; raises as `read_pairs`."""
    names = {getattr(row, side) for _, row in _rows(path) for side in SIDES}
    return [path.parent / name for name in sorted(names)]


def _rows(path: pathlib.Path) -> Iterator[tuple[int, PairRow]]:
    for number, row in json_lines(path):
        try:
            yield number, from_dict(PairRow, row)
        except UserError as error:
            raise UserError(f"{path}:{number}: {error}") from None


def json_lines(path: pathlib.Path) -> Iterator[tuple[int, Mapping]]:
    """Yields (line number, object) of a .jsonl file; `UserError` where there is none."""
    try:
        lines = path.read_text(encoding="utf-8").split("\n")  # json may hold U+2028 and the like
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {str(path)!r}: {error}") from None
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise UserError(f"{path}:{number}: not json ({error})") from None
        if not isinstance(row, Mapping):
            raise UserError(f"{path}:{number}: not an object; legal: {{...}} on each line")
        yield number, row
