"""Named random streams: every draw is `fold_in(seed, name, step)`; no key is ever carried along."""

import operator
import zlib

import jax
import numpy as np
from jaxtyping import Array, Int

from skyreels_jax.core.types import PRNGKey

Step = int | np.integer | Int[Array, ""]


def stream(seed: int | np.integer | PRNGKey, name: str, step: Step = 0) -> PRNGKey:
    """Returns the key of stream `name` at `step`: the same three values, the same key, anywhere.

    `seed` is an integer or a key, `step` an integer or one in an array (it may be traced).
    """
    if not isinstance(seed, jax.Array):
        seed = jax.random.key(operator.index(seed))
    key = jax.random.fold_in(seed, zlib.crc32(name.encode()) & 0x7FFFFFFF)
    return jax.random.fold_in(key, step)
