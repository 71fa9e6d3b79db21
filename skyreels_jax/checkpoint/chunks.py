"""How arrays lie in a checkpoint."""

from typing import Any

import numpy as np
import orbax.checkpoint as ocp

CHUNK_BYTES = 1 << 26


def chunked(leaf: Any) -> ocp.SaveArgs:
    """Returns how `leaf` is stored: in chunks of one layer of a stack, or of a part of one.

    Nothing less than a chunk can be read. Orbax by itself makes a chunk of all that one device has.
    """
    return ocp.SaveArgs(chunk_byte_size=CHUNK_BYTES, shard_axes=(0,) if np.ndim(leaf) > 2 else ())
