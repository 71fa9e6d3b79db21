"""Whether the checkpoints of a run will find room, asked before it begins."""

import math
import pathlib
import shutil
from typing import Any

import jax

from skyreels_jax.core.errors import UserError


def check_room(folder: pathlib.Path, state: Any, copies: int) -> None:
    """Raises `UserError` where the disk of `folder` does not hold `copies` checkpoints of `state`,
    those that are there counted in.

    state: its arrays, abstract or not.
    """
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    one = sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))
    written = [path for path in folder.glob("*") if path.name.isdigit()]
    missing = max(copies - len(written), 0)
    free = shutil.disk_usage(there).free
    if missing * one > free:
        raise UserError(
            f"out: {folder} needs {_gigabytes(missing * one)} more for {copies} checkpoints of "
            f"{_gigabytes(one)}, {_gigabytes(free)} are free; make room, give another, or lower "
            "keep (or raise keep_every)"
        )


def _gigabytes(count: int) -> str:
    return f"{count / 1e9:.3g} GB"
