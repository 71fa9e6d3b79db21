"""Named random streams: every draw is `fold_in(seed, name, step)`; no key is ever carried along."""

import operator
import zlib

import jax
import numpy as np

from skyreels_jax.core.types import PRNGKey


def stream(seed: int | np.integer | PRNGKey, name: str, step=0) -> PRNGKey:
    """Returns the key of stream `name` at `step`: the same three values, the same key, anywhere.

    `seed` is an integer or a key, `step` an integer or an integer array (it may be traced).
    """
    if not isinstance(seed, jax.Array):
        seed = jax.random.key(operator.index(seed))
    key = jax.random.fold_in(seed, zlib.crc32(name.encode()) & 0x7FFFFFFF)
    return jax.random.fold_in(key, step)
