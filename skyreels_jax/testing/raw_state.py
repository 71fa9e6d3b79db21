"""Whole training states from disk, whatever they are."""

import pathlib
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from skyreels_jax.checkpoint import find_checkpoint


def raw_state(path: pathlib.Path) -> dict[str, Any]:
    """Returns the state in the checkpoint `path`, or in the newest of the run there, as nested
    dicts of numpy arrays.
    """
    folder = find_checkpoint(path).absolute() / "state"
    with ocp.StandardCheckpointer() as reader:
        kept = reader.metadata(folder).item_metadata.tree
        like = jax.tree.map(lambda leaf: np.empty(leaf.shape, leaf.dtype), kept)
        return reader.restore(folder, like)
