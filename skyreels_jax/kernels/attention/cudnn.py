"""Attention on NVIDIA GPUs by cuDNN, as jax.nn offers it; forward and backward."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from skyreels_jax.kernels.attention.devices import gpu_capability
from skyreels_jax.kernels.attention.inputs import kernels_refuse
from skyreels_jax.kernels.attention.mask import Mask

WIDEST = 128  # of a head, on every GPU that has fused attention
NARROW = ("bfloat16", "float16")
OLDEST = 8.0  # of the compute capabilities: Ampere


def cudnn(
    q: Float[Array, "B L N K"],
    k: Float[Array, "B S N K"],
    v: Float[Array, "B S N K"],
    *,
    mask: Mask | None = None,
    scale: float,
) -> tuple[Float[Array, "B L N K"], None]:
    """Equals `reference` as far as it goes: 16-bit numbers, lengths of keys and no other masks
    (cuDNN would want an array of L x S), no logarithm of the softmax's sum. NVIDIA GPUs only.

    The logarithm is left out though jax.nn can return it: it comes rounded to 16 bits, which is a
    few percent of the sum, and no gradient goes through it.
    """
    if why := cudnn_refuses(q, k, v, mask):
        raise NotImplementedError(f"cudnn attention {why}")
    length = None if mask is None else mask.kv_length
    # A row without keys never reaches cuDNN: what it gives there is not documented.
    some = None if length is None else jnp.clip(length, 1, k.shape[1]).astype(jnp.int32)
    out = jax.nn.dot_product_attention(
        q, k, v, scale=scale, key_value_seq_lengths=some, implementation="cudnn"
    )
    if length is not None:
        out = jnp.where((length > 0)[:, None, None, None], out, jnp.zeros((), out.dtype))
    return out, None


def cudnn_refuses(
    q: Float[Array, "B L N K"],
    k: Float[Array, "B S N K"],
    v: Float[Array, "B S N K"],
    mask: Mask | None,
) -> str:
    """Returns what of these, or of this process's GPU, cuDNN's attention cannot do; empty where it
    can.
    """
    if mask is not None and (mask.kv_weight is not None or mask.causal_block is not None):
        return "takes lengths of keys, and neither weights of keys nor causal blocks"
    if q.dtype.name not in NARROW:
        return f"takes {' and '.join(NARROW)}, not {q.dtype.name}"
    if q.shape[-1] % 8 or q.shape[-1] > WIDEST:
        return f"takes heads of multiples of 8 up to {WIDEST}, not {q.shape[-1]}"
    if why := kernels_refuse(q, k, v):
        return why
    found = gpu_capability()
    if found is not None and not (found[0].isdigit() and float(found) >= OLDEST):
        return f"runs on NVIDIA GPUs of compute capability {OLDEST} or more, not {found}"
    return ""
