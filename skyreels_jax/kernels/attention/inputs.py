"""What is asked of attention's inputs: shapes, dtypes, and how exactly a dtype is multiplied."""

import jax.numpy as jnp
from jax.lax import Precision
from jaxtyping import Array, Float

from skyreels_jax.core.errors import UserError
from skyreels_jax.kernels.attention.mask import Mask


def check(
    q: Float[Array, "B L N K"],
    k: Float[Array, "B S N K"],
    v: Float[Array, "B S N K"],
    mask: Mask | None,
) -> None:
    """Raises `UserError` where shapes do not belong together."""
    (batch, _, *head), keys = q.shape, k.shape[1]
    if not k.shape == v.shape == (batch, keys, *head):
        raise UserError(
            "attention takes q [B, L, N, K] and k, v [B, S, N, K] (L, S: all tokens), not q "
            f"{list(q.shape)}, k {list(k.shape)}, v {list(v.shape)}"
        )
    if mask is None:
        return
    for name, legal in {"kv_weight": (batch, keys), "kv_length": (batch,)}.items():
        given = getattr(mask, name)
        if given is not None and given.shape != legal:
            raise UserError(
                f"{name} of the mask is {list(legal)} for these keys, not {list(given.shape)}"
            )


def kernels_refuse(
    q: Float[Array, "B L N K"], k: Float[Array, "B S N K"], v: Float[Array, "B S N K"]
) -> str:
    """Returns what of these none of the platforms' kernels takes; empty where they may."""
    dtypes = [x.dtype.name for x in (q, k, v)]
    if len(set(dtypes)) > 1:
        return f"takes q, k and v of one dtype, not of {', '.join(dtypes)}"
    return none_refused(q, k)


def none_refused(q: Float[Array, "B L N K"], k: Float[Array, "B S N K"]) -> str:
    """Returns that tokens are missing, which only "reference" takes; empty where none are."""
    if q.shape[1] and k.shape[1]:
        return ""
    return f"takes one query and one key or more, not {q.shape[1]} and {k.shape[1]}"


def precision(dtype: jnp.dtype) -> Precision:
    """Returns how products of this dtype are to be made: float32 as float32, which accelerators
    would round to bfloat16 (TPU) or TF32 (NVIDIA) if they were not told.
    """
    return Precision.HIGHEST if dtype == jnp.float32 else Precision.DEFAULT
