"""Parts of a set of preferences by where their rejected clips come from: for leave-one-out."""

import collections
from collections.abc import Sequence

import numpy as np

from skyreels_jax.core.config import suggest
from skyreels_jax.core.errors import UserError
from skyreels_jax.data.loader import Part, Source
from skyreels_jax.data.preferences.preferences_dataset_builder import read_preferences


def without(folder: str, left_out: Sequence[str], *, split: str = "train") -> Source:
    """Returns the records of `folder` (see `read_preferences`) that are of no kind in `left_out`.

    Raises `UserError` for a kind that is not in the set, and when no pair is left.
    """
    source = read_preferences(folder, split=split)
    if not left_out:
        return source
    told = read_preferences(folder, split=split, pixels=False)
    kinds = [told[i]["source"].decode() for i in range(len(told))]
    for kind in left_out:
        if kind not in kinds:
            raise UserError(f"left_out: no pair is of the kind {kind!r}{suggest(kind, set(kinds))}")
    kept = [i for i, kind in enumerate(kinds) if kind not in left_out]
    if not kept:
        listed = ", ".join(f"{kind}: {n}" for kind, n in collections.Counter(kinds).items())
        raise UserError(f"left_out: no pair is left (all are of {listed})")
    return Part(source=source, indices=np.array(kept))
