"""The one entry to attention: a choice by size, or a named implementation that never falls back."""

import dataclasses
import functools
import logging
import math

import jax
from jaxtyping import Array, Float

from skyreels_jax.core.config import suggest
from skyreels_jax.core.errors import UserError
from skyreels_jax.kernels.attention.chunked import chunked, chunked_gradients
from skyreels_jax.kernels.attention.cudnn import cudnn, cudnn_refuses
from skyreels_jax.kernels.attention.inputs import check
from skyreels_jax.kernels.attention.mask import Mask
from skyreels_jax.kernels.attention.pallas_gpu import pallas_gpu, pallas_gpu_gradients
from skyreels_jax.kernels.attention.pallas_tpu import (
    pallas_tpu,
    pallas_tpu_gradients,
    pallas_tpu_refuses,
)
from skyreels_jax.kernels.attention.reference import reference, reference_gradients
from skyreels_jax.kernels.attention.residuals import kept

IMPLEMENTATIONS = {
    "reference": reference,
    "chunked": chunked,
    "pallas_tpu": pallas_tpu,
    "cudnn": cudnn,
    # Only by name until a GPU has shown it right and fast (benchmarks/h200.sh).
    "pallas_gpu": pallas_gpu,
}
GRADIENTS = {  # of those that give the softmax's sum
    "reference": reference_gradients,
    "chunked": chunked_gradients,
    "pallas_tpu": pallas_tpu_gradients,
    "pallas_gpu": pallas_gpu_gradients,
}
GPU = ("gpu", "cuda")
PLATFORMS = {"pallas_tpu": ("tpu",), "cudnn": GPU, "pallas_gpu": GPU}  # the others: on all
# Logits per head and sample from which `chunked` is the choice. On two (busy) CPU cores, float32,
# forward and backward: 16 x 144 tokens x 6 heads x 32: reference 15 ms, chunked 16 ms; 2048 tokens
# x 12 x 128: reference 5.6 s, chunked 3.7 s (and no L x S array).
LARGE = 1024 * 1024


@functools.cache
def _log_once(impl: str, platform: str) -> None:
    said = "attention: %s chosen for %s (impl= sets it)"
    logging.getLogger(__name__).info(said, impl, platform)


def choose(
    q: Float[Array, "B L N K"],
    k: Float[Array, "B S N K"],
    v: Float[Array, "B S N K"],
    *,
    mask: Mask | None,
    platform: str,
    lse: bool,
) -> str:
    """Returns the name of the implementation for these inputs on `platform`, as `attention` does:
    the platform's kernel for many logits if it does not refuse them, or one that takes all.

    lse: whether the logarithm of the softmax's sum is needed as well.
    """
    if q.shape[1] * k.shape[1] < LARGE:
        impl = "reference"
    elif platform == "tpu" and not pallas_tpu_refuses(q, k, v):
        impl = "pallas_tpu"
    elif platform in GPU and not lse and not cudnn_refuses(q, k, v, mask):
        impl = "cudnn"
    else:
        impl = "chunked"
    _log_once(impl, platform)
    return impl


def attention(
    q: Float[Array, "B *L N K"],
    k: Float[Array, "B *S N K"],
    v: Float[Array, "B *S N K"],
    *,
    mask: Mask | None = None,
    scale: float | None = None,
    impl: str | None = None,
    platform: str | None = None,
) -> Float[Array, "B *L N K"]:
    """Returns softmax(scale q k^T + mask) v per sample and head, in the dtype of q.

    Tokens may have several axes (frames, places), which count as one, in order.
    `scale` defaults to K^-1/2. `impl` None chooses by size and by the platform that it is compiled
    for (None: jax's default) and says so once in the log; a name uses exactly that implementation,
    which raises `NotImplementedError` with its reason for what it cannot do. Products of float32
    are made in float32 everywhere; of several dtypes "reference" and "chunked" take the widest, and
    the kernels refuse them. Raises `UserError` for an unknown name and for shapes that do not
    belong together.
    """
    return _attention(q, k, v, mask=mask, scale=scale, impl=impl, platform=platform, lse=False)[0]


def attention_lse(
    q: Float[Array, "B *L N K"],
    k: Float[Array, "B *S N K"],
    v: Float[Array, "B *S N K"],
    *,
    mask: Mask | None = None,
    scale: float | None = None,
    impl: str | None = None,
    platform: str | None = None,
) -> tuple[Float[Array, "B *L N K"], Float[Array, "B *L N"]]:
    """Returns what `attention` does, and the logarithm of the softmax's sum, float32: with it what
    several sets of keys give can be merged. It is `MASKED`, a number, for queries without keys.
    """
    return _attention(q, k, v, mask=mask, scale=scale, impl=impl, platform=platform, lse=True)


def attention_gradients(
    q: Float[Array, "B *L N K"],
    k: Float[Array, "B *S N K"],
    v: Float[Array, "B *S N K"],
    out: Float[Array, "B *L N K"],
    lse: Float[Array, "B *L N"],
    grad: Float[Array, "B *L N K"],
    *,
    mask: Mask | None = None,
    scale: float | None = None,
    impl: str | None = None,
    platform: str | None = None,
) -> tuple[Float[Array, "B *L N K"], Float[Array, "B *S N K"], Float[Array, "B *S N K"]]:
    """Returns what `grad`, the gradient of `out`, makes of q, k and v, in their dtypes.

    k, v may be a part of the keys: out and lse (of `attention_lse`) are of all of them, and so the
    gradients of q of all parts add up. The rest is as in `attention`.
    """
    shape, several = q.shape, k.shape
    q, k, v, out, grad = (_tokens_in_a_row(x) for x in (q, k, v, out, grad))
    impl, scale = _checked(q, k, v, mask=mask, scale=scale, impl=impl, platform=platform, lse=True)
    lse = lse.reshape(q.shape[:-1])
    dq, dk, dv = GRADIENTS[impl](q, k, v, out, lse, grad, mask=mask, scale=scale)
    return dq.reshape(shape), dk.reshape(several), dv.reshape(several)


@dataclasses.dataclass(frozen=True)
class Attention:
    """All of it for one platform and implementation, as `parallel.context.ContextAttention` takes
    it; both as in `attention`.
    """

    platform: str | None = None
    impl: str | None = None

    def attend(self, q: Array, k: Array, v: Array, *, mask: Mask | None) -> Array:
        """`attention`."""
        return attention(q, k, v, mask=mask, **self._chosen)

    def attend_lse(self, q: Array, k: Array, v: Array, *, mask: Mask | None) -> tuple[Array, Array]:
        """`attention_lse`."""
        return attention_lse(q, k, v, mask=mask, **self._chosen)

    def gradients(self, *arrays: Array, mask: Mask | None) -> tuple[Array, Array, Array]:
        """`attention_gradients`."""
        return attention_gradients(*arrays, mask=mask, **self._chosen)

    def kept(self, x: Array) -> Array:
        """Returns `x`, marked as what the backward pass needs and is dear to compute again."""
        return kept(x)

    @property
    def _chosen(self) -> dict[str, str | None]:
        return dataclasses.asdict(self)


def _attention(
    q: Array,
    k: Array,
    v: Array,
    *,
    mask: Mask | None,
    scale: float | None,
    impl: str | None,
    platform: str | None,
    lse: bool,
) -> tuple[Array, Array | None]:
    shape, (q, k, v) = q.shape, (_tokens_in_a_row(x) for x in (q, k, v))
    impl, scale = _checked(q, k, v, mask=mask, scale=scale, impl=impl, platform=platform, lse=lse)
    out, total = IMPLEMENTATIONS[impl](q, k, v, mask=mask, scale=scale)
    return out.reshape(shape), None if total is None else total.reshape(shape[:-1])


def _checked(
    q: Array,
    k: Array,
    v: Array,
    *,
    mask: Mask | None,
    scale: float | None,
    impl: str | None,
    platform: str | None,
    lse: bool,
) -> tuple[str, float]:
    """Returns the implementation and the scale."""
    check(q, k, v, mask)
    platform = platform or jax.default_backend()
    if impl is None:
        impl = choose(q, k, v, mask=mask, platform=platform, lse=lse)
    if impl not in IMPLEMENTATIONS:
        raise UserError(f"attention impl {impl!r} is not known{suggest(impl, IMPLEMENTATIONS)}")
    legal = PLATFORMS.get(impl, (platform,))
    if platform not in legal:
        raise NotImplementedError(
            f"{impl} attention is for {legal[0]}, not for {platform} (platform= says for what)"
        )
    if lse and impl == "cudnn":
        raise NotImplementedError("cudnn attention does not give the softmax's sum")
    return impl, q.shape[-1] ** -0.5 if scale is None else scale


def _tokens_in_a_row(x: Float[Array, "B *L N K"]) -> Float[Array, "B L N K"]:
    return x.reshape(x.shape[0], math.prod(x.shape[1:-2]), *x.shape[-2:])
