"""The cursor that carries past frames through the network, in call order."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from skyreels_jax.core.errors import UserError
from skyreels_jax.core.types import PRNGKey
from skyreels_jax.nn.conv import CausalConv3D

Cache = tuple[Float[Array, "_ _ _ _ _"], ...]  # every layer has a size of its own


class Stream:
    """One pass over one chunk of frames: hands every causal layer its past and keeps the next one.

    It lives while the function that made it is traced and is never part of a model or a cache.
    `cache=None` starts a clip: `first` is True and every past is absent (zeros). `key` turns
    dropout on. After the pass `cache` is the tuple of pasts, in call order, for the next chunk.
    """

    def __init__(self, cache: Cache | None = None, *, key: PRNGKey | None = None):
        self.first = cache is None
        self._past = list(cache or ())
        self._kept = []
        self._key = key
        self._draws = 0

    @property
    def cache(self) -> Cache:
        """The pasts kept so far."""
        return tuple(self._kept)

    def conv(
        self, layer: CausalConv3D, x: Float[Array, "B T H W I"], *, start: Array | None = None
    ) -> Float[Array, "B To H W O"]:
        """Returns `layer(x)` after the carried past; on the first chunk the past is `start`."""
        y, past = layer(x, start if self.first else self._next(x))
        self._kept.append(past)
        return y

    def _next(self, x: Float[Array, "B T H W I"]) -> Float[Array, "B P H W I"]:
        # The n-th causal layer of this pass takes the n-th past.
        position = len(self._kept)
        past = self._past[position] if position < len(self._past) else None
        if past is None or (past.shape[0], *past.shape[2:]) != (x.shape[0], *x.shape[2:]):
            raise UserError(
                "the cache does not fit this chunk: batch and size must stay those of the first"
                " chunk, and encoder and decoder have a cache each"
            )
        return past

    def dropout(self, x: Float[Array, "B T H W C"], rate: float) -> Float[Array, "B T H W C"]:
        """Returns `x`, with a key with a share `rate` of its values 0 and the rest scaled up."""
        if self._key is None or rate == 0.0:
            return x
        key = jax.random.fold_in(self._key, self._draws)
        self._draws += 1
        keep = jax.random.bernoulli(key, 1 - rate, x.shape)
        return jnp.where(keep, x / (1 - rate), jnp.zeros_like(x))


def pointwise(layer: CausalConv3D, x: Float[Array, "B T H W I"]) -> Float[Array, "B T H W O"]:
    """Returns `layer(x)` for a layer that sees one frame at a time, so that nothing is carried."""
    return layer(x)[0]
