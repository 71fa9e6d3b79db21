"""Parts of a set of preferences by where their rejected clips come from: for leave-one-out."""

import collections
from collections.abc import Sequence

import numpy as np

from skyreels_jax.core.config import suggest
from skyreels_jax.core.errors import UserError
from skyreels_jax.data.loader import Joined, Part, Source
from skyreels_jax.data.preferences.preferences_dataset_builder import read_preferences


def without(folders: Sequence[str], left_out: Sequence[str], *, split: str = "train") -> Source:
    """Returns the records of all `folders` (see `read_preferences`) that are of no kind in
    `left_out`.

    Raises `UserError` for a kind that is in none of them, for clips of two shapes, and when no pair
    is left.
    """
    sources = [read_preferences(folder, split=split) for folder in folders]
    shapes = {
        folder: source[0]["chosen"].shape for folder, source in zip(folders, sources, strict=True)
    }
    if len(set(shapes.values())) > 1:
        said = ", ".join(f"{folder}: {list(shape)}" for folder, shape in shapes.items())
        raise UserError(f"pairs of several sets must have clips of one shape, got {said}")
    source = sources[0] if len(sources) == 1 else Joined(sources=sources)
    if not left_out:
        return source
    told = Joined(sources=[read_preferences(one, split=split, pixels=False) for one in folders])
    kinds = [told[i]["source"].decode() for i in range(len(told))]
    for kind in left_out:
        if kind not in kinds:
            raise UserError(f"left_out: no pair is of the kind {kind!r}{suggest(kind, set(kinds))}")
    kept = [i for i, kind in enumerate(kinds) if kind not in left_out]
    if not kept:
        listed = ", ".join(f"{kind}: {n}" for kind, n in collections.Counter(kinds).items())
        raise UserError(f"left_out: no pair is left (all are of {listed})")
    return Part(source=source, indices=np.array(kept))
