"""What the files of a folder show: captions.jsonl, or a FILE.txt beside each FILE.mp4."""

import dataclasses
import json
import math
import os
import pathlib
from typing import Any

from skyreels_jax.core.config import suggest
from skyreels_jax.core.errors import UserError

CAPTIONS = "captions.jsonl"
FIELDS = ("file", "caption", "subject_type", "start", "end")
IMAGES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")
VIDEOS = (".mp4", ".mov", ".mkv", ".webm", ".avi", ".m4v", ".mpg", ".mpeg", ".ts", ".wmv", ".flv")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Entry:
    """What a file shows from `start` to `end`, in seconds behind its first frame.

    file: its path below the folder.  captions: one or more that say the same.
    subject_type: such as "Human"; "": not stated.
    """

    file: str
    captions: tuple[str, ...]
    subject_type: str = ""
    start: float = 0.0
    end: float = math.inf

    @property
    def is_image(self) -> bool:
        return pathlib.Path(self.file).suffix.lower() in IMAGES


def read_captions(
    folder: str | os.PathLike[str], captions: str | os.PathLike[str] | None = None
) -> list[Entry]:
    """Returns the entries of `captions`, by default folder/captions.jsonl; without one, an entry
    for each video and image below `folder` with a .txt of its name beside it, the whole text of
    which is its caption.

    A line of a captions file is {"file", "caption"}, the caption a text or a list of paraphrases,
    with "subject_type", "start" and "end" where needed; a file may have several lines.
    Raises `UserError` where there is no such folder or file, where there are no captions, and for a
    line that is not like this.
    """
    folder = pathlib.Path(folder).expanduser()
    if not folder.is_dir():
        raise UserError(f"no folder of videos {str(folder)!r}")
    path = folder / CAPTIONS if captions is None else pathlib.Path(captions).expanduser()
    if captions is not None and not path.is_file():
        raise UserError(f"no captions file {str(path)!r}")
    entries = _lines(path) if path.is_file() else _texts(folder)
    if not entries:
        raise UserError(
            f"no captions for {str(folder)!r}: write {CAPTIONS} there, with a line "
            '{"file": ..., "caption": ...} for each video, or a NAME.txt beside each NAME.mp4'
        )
    return entries


def _texts(folder: pathlib.Path) -> list[Entry]:
    entries = []
    for path in sorted(folder.rglob("*")):
        text = path.with_suffix(".txt")
        if path.suffix.lower() in IMAGES + VIDEOS and text.is_file():
            caption = _read(text).strip()
            if not caption:
                raise UserError(f"{text} is empty; a caption says what the video shows")
            entries.append(Entry(file=str(path.relative_to(folder)), captions=(caption,)))
    return entries


def _lines(path: pathlib.Path) -> list[Entry]:
    entries, seen = [], {}
    # Not splitlines: json may hold U+2028 and the like.
    for number, line in enumerate(_read(path).split("\n"), start=1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        try:
            entry = _entry(json.loads(line))
        except (UserError, ValueError) as error:
            raise UserError(f"{where}: {error}") from None
        place = (entry.file, entry.start, entry.end)
        if place in seen:
            raise UserError(
                f"{where}: line {seen[place]} is of the same part of {entry.file}; give "
                "paraphrases as a list"
            )
        seen[place] = number
        entries.append(entry)
    return entries


def _entry(values: Any) -> Entry:
    if not isinstance(values, dict):
        raise UserError('expected an object, {"file": ..., "caption": ...}')
    for name in values:
        if name not in FIELDS:
            raise UserError(f"unknown field {name!r}{suggest(name, FIELDS)}")
    file, caption, kind = (values.get(name, "") for name in FIELDS[:3])
    captions = [caption] if isinstance(caption, str) else caption
    texts = [file, kind, *captions] if isinstance(captions, list) else [None]
    if not all(isinstance(text, str) for text in texts) or not file:
        raise UserError("file and subject_type are texts, caption is a text or a list of texts")
    if not captions or not all(text.strip() for text in captions):
        raise UserError(f"{file} has no caption, or an empty one")
    start, end = values.get("start", 0), values.get("end", math.inf)
    numbers = all(isinstance(x, (int, float)) and not isinstance(x, bool) for x in (start, end))
    if not numbers or not 0 <= start < end:
        raise UserError(f"{file}: start and end are seconds, 0 <= start < end")
    span = {"start": float(start), "end": float(end)}
    return Entry(file=file, captions=tuple(captions), subject_type=kind, **span)


def _read(path: pathlib.Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {path}: {error}") from None
