"""Files appear whole or not at all; an unwritable folder is found out before the work starts."""

import contextlib
import json
import os
import pathlib
import re
import secrets
import tempfile
from collections.abc import Iterator
from typing import Any

from skyreels_jax.core.errors import UserError


@contextlib.contextmanager
def replacing(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """Yields a temporary sibling of `path`: on success it becomes `path`, else it vanishes."""
    # Not the process's number: others may have the same on another host, and it has threads.
    temporary = path.with_name(f".{path.stem}.{secrets.token_hex(4)}{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        raise UserError(f"cannot write {str(path)!r}: {error.strerror or error}") from None
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def write_json(path: pathlib.Path, value: Any) -> None:
    """Writes `value`, whole or not at all: a kill leaves what was there."""
    with replacing(path) as aside:
        aside.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")


def check_local(place: pathlib.Path | str) -> None:
    """Raises `UserError` for URLs: as a path each is a new folder of that name."""
    # pathlib makes one stroke of two.
    if found := re.match(r"([a-z][a-z0-9+.-]+):/+(.*)", str(place), re.IGNORECASE):
        raise UserError(
            f"{found[1]}://{found[2]} is no folder; mount a share on which folders are renamed at "
            "once (launch/README.md), and name that"
        )


def check_writable(folder: pathlib.Path) -> None:
    """Raises `UserError` unless files can be put into `folder` (which need not exist yet)."""
    check_local(folder)
    nearest = next(p for p in (folder.absolute(), *folder.absolute().parents) if p.exists())
    try:
        with tempfile.TemporaryDirectory(dir=nearest):
            pass
    except OSError as error:
        raise UserError(f"cannot write to {str(folder)!r}: {error.strerror or error}") from None
