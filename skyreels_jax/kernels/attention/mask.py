"""Which keys a query may see, as data."""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from skyreels_jax.core.errors import UserError

MASKED = -1e30  # finite, so that rows without a key stay free of NaN


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Mask:
    """A structured mask; never an L x S array in memory.

    kv_weight [B, S]: how many times each key counts in the softmax (0 hides it). It is a count and
    not a parameter: its gradient is 0 everywhere.
    kv_length [B]: keys at and after this index are hidden; all of them, if it is 0.
    causal_block: tokens per causal block; a query sees its own block and the ones before. Queries
    and keys begin at the same token: a KV cache (`models/dit/kv_cache.py`) needs no offset.

    A query without keys has the output 0, `MASKED` as the logarithm of its softmax's sum, and no
    gradient. Raises `UserError` for blocks of less than one token.
    """

    kv_weight: Float[Array, "B S"] | None = None
    kv_length: Int[Array, "B"] | None = None
    causal_block: int | None = dataclasses.field(default=None, metadata={"static": True})

    def __post_init__(self):
        if self.causal_block is not None and self.causal_block < 1:
            raise UserError(f"a causal block has 1 token or more, not {self.causal_block}")


def key_bias(mask: Mask | None, *, length: int) -> Float[Array, "B S"] | None:
    """Returns what to add to the logits of `length` keys (`MASKED`, or less than half of it, hides
    one), without a gradient; None when every key counts once.
    """
    if mask is None or (mask.kv_weight is None and mask.kv_length is None):
        return None
    bias = None
    if mask.kv_weight is not None:
        weight = jax.lax.stop_gradient(mask.kv_weight.astype(jnp.float32))
        seen = weight > 0
        bias = jnp.where(seen, jnp.log(jnp.where(seen, weight, 1.0)), MASKED)
    if mask.kv_length is not None:
        seen = jnp.arange(length)[None, :] < mask.kv_length[:, None]
        bias = jnp.where(seen, 0.0 if bias is None else bias, MASKED)
    return bias


def visible(
    mask: Mask | None, query: Int[Array, "L"], key: Int[Array, "S"]
) -> Bool[Array, "L S"] | None:
    """Returns which of the keys at positions `key` the queries at `query` see, or None for all."""
    if mask is None or mask.causal_block is None:
        return None
    return key[None, :] // mask.causal_block <= query[:, None] // mask.causal_block
