"""Attention on Hopper GPUs by our own Pallas kernels (Mosaic GPU), forward and backward.

Kept apart from the kernels so that Pallas is imported by those who run it. What the kernels do is
in `gpu.forward` and `gpu.backward`.
"""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from skyreels_jax.kernels.attention.devices import gpu_capability
from skyreels_jax.kernels.attention.inputs import kernels_refuse
from skyreels_jax.kernels.attention.mask import MASKED, Mask, key_bias
from skyreels_jax.kernels.attention.residuals import kept

WIDTHS = (64, 128)  # of a head
NARROW = ("bfloat16", "float16")
ROWS = 64  # of queries or keys, of a warpgroup
WIDEST = 256  # columns of one product
HOPPER = "9.0"  # compute capability: neither older nor newer GPUs have these products
LEAST_SCALE = 1e-7  # of which `MASKED` is a float32 before it is applied


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tiles:
    """Of one kernel: warpgroups that compute (64 rows each), tokens of a step, buffered steps.

    Raises `ValueError` for what the hardware has not: a step is a product over whole 64 tokens, up
    to 256.
    """

    consumers: int = 2
    columns: int = 128
    stages: int = 2

    def __post_init__(self):
        columns = range(ROWS, WIDEST + 1, ROWS)
        if self.consumers not in (1, 2, 3) or self.columns not in columns or self.stages < 2:
            legal = ", ".join(map(str, columns))
            raise ValueError(f"1 to 3 consumers, columns of {legal}, 2 stages or more; got {self}")

    @property
    def rows(self) -> int:
        """Tokens of a program of the grid."""
        return self.consumers * ROWS


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tuning:
    """Tiles of the three kernels. The defaults are from register and shared memory budgets, not
    from measurements: `benchmarks/h200.sh --only attention` sweeps them. by_memory: the softmax's
    result is multiplied from shared memory instead of registers, as jax's interpreter needs it.
    """

    forward: Tiles = Tiles()
    queries: Tiles = Tiles(columns=64)
    keys: Tiles = Tiles(columns=64)
    by_memory: bool = False


def pallas_gpu(
    q: Float[Array, "B L N K"],
    k: Float[Array, "B S N K"],
    v: Float[Array, "B S N K"],
    *,
    mask: Mask | None = None,
    scale: float,
    tuning: Tuning = Tuning(),  # noqa: B008  frozen
) -> tuple[Float[Array, "B L N K"], Float[Array, "B L N"]]:
    """Equals `reference` on Hopper GPUs, for heads of 64 or 128 in 16 bits; gradients flow through
    both results. The products take 16-bit numbers (so does the softmax's result), all else is
    float32. Tiles that causal blocks or lengths hide are skipped. Raises `NotImplementedError` for
    other heads, dtypes and GPUs and for scales below 1e-7.

    jax's own kernel of this kind refuses causal masks with CUDA 12.8 to 12.9.0, whose assembler
    miscompiles them; no public call tells the version, so it is not checked here.
    """
    *arrays, static = _arranged(q, k, v, mask, scale, tuning)
    out, lse = _attention(*arrays, tuning, static)
    length = q.shape[1]
    return out[:, :length], jnp.swapaxes(lse, 1, 2)[:, :length]


def pallas_gpu_gradients(
    q: Float[Array, "B L N K"],
    k: Float[Array, "B S N K"],
    v: Float[Array, "B S N K"],
    out: Float[Array, "B L N K"],
    lse: Float[Array, "B L N"],
    grad: Float[Array, "B L N K"],
    *,
    mask: Mask | None = None,
    scale: float,
    tuning: Tuning = Tuning(),  # noqa: B008  frozen
) -> tuple[Float[Array, "B L N K"], Float[Array, "B S N K"], Float[Array, "B S N K"]]:
    """Returns the gradients of q, k and v, as `attention_gradients` does."""
    *arrays, static = _arranged(q, k, v, mask, scale, tuning)
    tokens = arrays[0].shape[1]
    out, grad = (_padded(x, tokens) for x in (out, grad))
    lse = jnp.pad(jnp.swapaxes(lse, 1, 2), ((0, 0), (0, 0), (0, tokens - q.shape[1])))
    saved = (*arrays, out, lse)
    found = _backward(tuning, static, saved, (grad, jnp.zeros_like(lse)))[:3]
    return tuple(dx[:, : x.shape[1]] for dx, x in zip(found, (q, k, v), strict=True))


def _arranged(
    q: Array, k: Array, v: Array, mask: Mask | None, scale: float, tuning: Tuning
) -> tuple[Array, Array, Array, Array, Array, tuple]:
    """Returns q, k and v of whole tiles, what is added to logits over `scale`, how many keys clips
    have, and all of `Sizes` that no tile decides.
    """
    if why := pallas_gpu_refuses(q, k, v, scale):
        raise NotImplementedError(f"pallas_gpu attention {why}")
    keys = k.shape[1]
    per_query = math.lcm(tuning.forward.rows, tuning.queries.rows, tuning.keys.columns)
    per_key = math.lcm(tuning.forward.columns, tuning.queries.columns, tuning.keys.rows)
    q, k, v = _padded(q, per_query), _padded(k, per_key), _padded(v, per_key)
    bias = key_bias(mask, length=keys)
    bias = jnp.zeros((q.shape[0], keys), jnp.float32) if bias is None else bias
    more = ((0, 0), (0, k.shape[1] - keys))
    # The kernels add it before they multiply by scale log2 e, and so does what hides a logit.
    hidden = MASKED / (scale * math.log2(math.e))
    bias = jnp.pad(jnp.maximum(bias / scale, hidden), more, constant_values=hidden)
    lengths = jnp.full(q.shape[0], keys, jnp.int32)
    given = None if mask is None else mask.kv_length
    if given is not None:
        lengths = jnp.clip(given, 0, keys).astype(jnp.int32)
    options = {
        "scale": scale,
        "hidden": hidden,
        "causal": None if mask is None else mask.causal_block,
        "weighted": mask is not None and mask.kv_weight is not None,
        "by_memory": tuning.by_memory,
        "cut": given is not None or k.shape[1] != keys,
    }
    return q, k, v, bias, lengths, tuple(sorted(options.items()))


def pallas_gpu_refuses(
    q: Float[Array, "B L N K"], k: Float[Array, "B S N K"], v: Float[Array, "B S N K"], scale: float
) -> str:
    """Returns what of these, or of this process's GPU, the kernels cannot do; empty where they
    can.
    """
    if q.shape[-1] not in WIDTHS:
        return f"takes heads of 64 or 128, not {q.shape[-1]}"
    if q.dtype.name not in NARROW:
        return f"takes {' and '.join(NARROW)}, not {q.dtype.name}"
    if not scale >= LEAST_SCALE:
        return f"takes a scale of {LEAST_SCALE} or more, not {scale}"
    if why := kernels_refuse(q, k, v):
        return why
    found = gpu_capability()
    if found not in (None, HOPPER):
        return f"runs on GPUs of compute capability {HOPPER} (Hopper), not {found}"
    return ""


def _padded(x: Float[Array, "B L N K"], multiple: int) -> Float[Array, "B P N K"]:
    return jnp.pad(x, ((0, 0), (0, -x.shape[1] % multiple), (0, 0), (0, 0)))


def _sizes(tiles: Tiles, static: tuple):
    from skyreels_jax.kernels.attention.gpu.parts import Sizes

    return Sizes(
        consumers=tiles.consumers,
        rows=tiles.rows,
        columns=tiles.columns,
        stages=tiles.stages,
        **dict(static),
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(5, 6))
def _attention(
    q: Float[Array, "B L N K"],
    k: Float[Array, "B S N K"],
    v: Float[Array, "B S N K"],
    bias: Float[Array, "B S"],
    lengths: Int[Array, "B"],
    tuning: Tuning,
    static: tuple,
) -> tuple[Float[Array, "B L N K"], Float[Array, "B N L"]]:
    """Returns attention and the softmax's log-sum of arrays of whole tiles."""
    return _forward(q, k, v, bias, lengths, tuning, static)[0]


def _forward(q, k, v, bias, lengths, tuning: Tuning, static: tuple):
    from skyreels_jax.kernels.attention.gpu.forward import forward

    sizes = _sizes(tuning.forward, static)
    out, lse = (kept(x) for x in forward(q, k, v, bias, lengths, sizes=sizes))
    natural = jnp.where(lse <= MASKED / 2, MASKED, lse * math.log(2))
    return (out, natural), (q, k, v, bias, lengths, out, natural)


def _backward(tuning: Tuning, static: tuple, needed: tuple, cotangents: tuple):
    from skyreels_jax.kernels.attention.gpu.backward import backward_keys, backward_queries

    q, k, v, bias, lengths, out, lse = needed
    dout, dlse = cotangents
    products = dout.astype(jnp.float32) * out.astype(jnp.float32)
    delta = jnp.swapaxes(products.sum(axis=-1), 1, 2) - dlse
    # Queries without keys: an infinite sum leaves no share to any key.
    lse = jnp.where(lse <= MASKED / 2, -MASKED, lse / math.log(2))
    args = (q, k, v, bias, lengths, dout, lse, delta)
    dq = backward_queries(*args, sizes=_sizes(tuning.queries, static))
    dk, dv = backward_keys(*args, sizes=_sizes(tuning.keys, static))
    return dq, dk, dv, None, None


_attention.defvjp(_forward, _backward)
