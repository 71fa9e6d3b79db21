"""Attention on TPUs by our own Pallas kernels, forward and backward."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from skyreels_jax.kernels.attention.devices import tpu_kind
from skyreels_jax.kernels.attention.inputs import kernels_refuse
from skyreels_jax.kernels.attention.mask import MASKED, Mask, key_bias
from skyreels_jax.kernels.attention.residuals import kept
from skyreels_jax.kernels.attention.tpu import tiles

WIDTHS = (64, 128)  # of heads


def pallas_tpu(
    q: Float[Array, "B L N K"],
    k: Float[Array, "B S N K"],
    v: Float[Array, "B S N K"],
    *,
    mask: Mask | None = None,
    scale: float,
    interpret: Any = False,
) -> tuple[Float[Array, "B L N K"], Float[Array, "B L N"]]:
    """Equals `reference` (products in the dtype of q, sums in float32); compiles for TPUs only.

    Raises `NotImplementedError` for heads other than of 64 or 128, other dtypes than bfloat16 and
    float32, several dtypes, and TPUs that there are no tiles for (v4 and before). interpret: as
    `pl.pallas_call` takes it, to run on a CPU, slowly.
    """
    plan, arrays, length, bias = _arranged(q, k, v, mask, scale, interpret)
    out, lse = _attend(plan, *arrays, length, bias)
    queries = q.shape[1]
    return jnp.swapaxes(out[:, :, :queries], 1, 2), jnp.swapaxes(lse[:, :, :queries], 1, 2)


def pallas_tpu_gradients(
    q: Float[Array, "B L N K"],
    k: Float[Array, "B S N K"],
    v: Float[Array, "B S N K"],
    out: Float[Array, "B L N K"],
    lse: Float[Array, "B L N"],
    grad: Float[Array, "B L N K"],
    *,
    mask: Mask | None = None,
    scale: float,
    interpret: Any = False,
) -> tuple[Float[Array, "B L N K"], Float[Array, "B S N K"], Float[Array, "B S N K"]]:
    """Returns the gradients of q, k and v, as `attention_gradients` does."""
    plan, (query, key, value), length, bias = _arranged(q, k, v, mask, scale, interpret)
    pad = functools.partial(_padded, length=query.shape[2], axis=2)
    out, lse, grad = (pad(jnp.swapaxes(x, 1, 2)) for x in (out, lse, grad))
    saved = (query, key, value, length, bias, out, lse)
    found = _backward(plan, saved, (grad, jnp.zeros_like(lse)))[:3]
    pairs = zip(found, (q, k, v), strict=True)
    return tuple(jnp.swapaxes(dx[:, :, : x.shape[1]], 1, 2) for dx, x in pairs)


def _arranged(
    q: Array, k: Array, v: Array, mask: Mask | None, scale: float, interpret: Any
) -> tuple[Any, tuple[Array, ...], Array, Array | None]:
    """Returns the plan; q, k and v, heads first, of whole tiles; how many keys clips have; what is
    added to logits in base 2.
    """
    if why := pallas_tpu_refuses(q, k, v):
        raise NotImplementedError(f"pallas_tpu attention {why}")
    from skyreels_jax.kernels.attention.tpu.common import LOG2_E, Plan

    queries, keys = q.shape[1], k.shape[1]
    fitted, padded_queries, padded_keys = tiles.passes(q.dtype).fitted(queries, keys)
    block = None if mask is None else mask.causal_block
    lengths = None if mask is None else mask.kv_length
    weighted = mask is not None and mask.kv_weight is not None
    plan = Plan(
        queries=queries,
        keys=keys,
        block=block,
        biased=weighted,
        masked=weighted or block is not None or lengths is not None or padded_keys > keys,
        scale=scale,
        passes=fitted,
        interpret=interpret,
    )
    bias = None
    if weighted:
        bias = key_bias(Mask(kv_weight=mask.kv_weight), length=keys)
        bias = jnp.maximum(bias * LOG2_E, MASKED)
        bias = _padded(bias, padded_keys, axis=1)
    length = jnp.full(len(q), keys, jnp.int32)
    if lengths is not None:
        length = jnp.minimum(length, lengths.astype(jnp.int32))
    sizes = (padded_queries, padded_keys, padded_keys)
    pairs = zip((q, k, v), sizes, strict=True)
    arrays = tuple(_padded(jnp.swapaxes(x, 1, 2), size, axis=2) for x, size in pairs)
    return plan, arrays, length, bias


def pallas_tpu_refuses(
    q: Float[Array, "B L N K"], k: Float[Array, "B S N K"], v: Float[Array, "B S N K"]
) -> str:
    """Returns what of these, or of this process's TPU, the kernels cannot do; empty where they
    can.
    """
    if q.shape[-1] not in WIDTHS:
        return f"takes heads of {' or '.join(map(str, WIDTHS))}, not {q.shape[-1]}"
    if q.dtype not in (jnp.bfloat16, jnp.float32):
        return f"takes bfloat16 and float32, not {q.dtype}"
    if why := kernels_refuse(q, k, v):
        return why
    kind = tpu_kind()
    if kind is not None and kind not in tiles.KINDS:
        return f"has tiles for {', '.join(tiles.TABLE)}, not for {kind}"
    return ""


def _padded(x: Array, length: int, *, axis: int) -> Array:
    pads = [(0, 0)] * x.ndim
    pads[axis] = (0, length - x.shape[axis])
    return jnp.pad(x, pads)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attend(plan, q, k, v, length, bias):
    return _forward(plan, q, k, v, length, bias)[0]


def _scaled(plan, q: Array) -> Array:
    from skyreels_jax.kernels.attention.tpu.common import LOG2_E

    return (q.astype(jnp.float32) * (plan.scale * LOG2_E)).astype(q.dtype)


def _forward(plan, q, k, v, length, bias):
    from skyreels_jax.kernels.attention.tpu.forward import forward

    vt = jnp.swapaxes(v, 2, 3)
    out, lse = forward(_scaled(plan, q), k, vt, length=length, bias=bias, plan=plan)
    out, lse = kept(jnp.swapaxes(out, 2, 3)), kept(lse[:, :, 0])
    return (out, lse), (q, k, v, length, bias, out, lse)


def _backward(plan, saved, gradients):
    from skyreels_jax.kernels.attention.tpu.backward import backward_dkv, backward_dq
    from skyreels_jax.kernels.attention.tpu.common import LOG2_E

    q, k, v, length, bias, out, lse = saved
    do, dlse = gradients
    delta = jnp.sum(do.astype(jnp.float32) * out.astype(jnp.float32), -1) - dlse
    # Queries without keys have no shares: 2^(s - inf) is 0, whatever s is.
    low = jnp.where(lse <= MASKED / 2, -MASKED, lse * LOG2_E)
    rest = {"lse": low, "delta": delta, "length": length, "bias": bias, "plan": plan}
    scaled = _scaled(plan, q)
    dq = backward_dq(scaled, k, v, do, **rest)
    dk, dv = backward_dkv(scaled, k, v, do, **rest)
    return *(jnp.swapaxes(x, 2, 3) for x in (dq, dk, dv)), None, None


_attend.defvjp(_forward, _backward)
