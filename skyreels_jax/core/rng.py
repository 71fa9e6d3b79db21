"""Named random streams: every draw is `fold_in(seed, name, step)`; no key is ever carried along."""

import zlib

import jax

from skyreels_jax.core.types import PRNGKey


def stream(seed: int | PRNGKey, name: str, step=0) -> PRNGKey:
    """Returns the key of stream `name` at `step`: the same three values, the same key, anywhere.

    `seed` is an integer or a key, `step` an integer or an integer array (it may be traced).
    """
    key = jax.random.key(seed) if isinstance(seed, int) else seed
    key = jax.random.fold_in(key, zlib.crc32(name.encode()) & 0x7FFFFFFF)
    return jax.random.fold_in(key, step)
