"""Files appear whole or not at all; an unwritable folder is found out before the work starts."""

import contextlib
import json
import os
import pathlib
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


def check_writable(folder: pathlib.Path) -> None:
    """Raises `UserError` unless files can be put into `folder` (which need not exist yet)."""
    nearest = next(p for p in (folder.absolute(), *folder.absolute().parents) if p.exists())
    try:
        with tempfile.TemporaryDirectory(dir=nearest):
            pass
    except OSError as error:
        raise UserError(f"cannot write to {str(folder)!r}: {error.strerror or error}") from None
