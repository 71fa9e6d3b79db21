"""Attention with memory linear in length: online softmax over chunks of queries and keys."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from skyreels_jax.core.errors import UserError
from skyreels_jax.kernels.attention.inputs import none_refused, precision
from skyreels_jax.kernels.attention.mask import MASKED, Mask, key_bias, visible
from skyreels_jax.kernels.attention.residuals import kept

MULTIPLE = 8  # of which chunks are
CHUNK = 512  # tokens, at most
# Of queries where launches decide and no cache: 51,000 of them against one chunk of keys, as of a
# text, are 13 turns of a loop instead of 100.
WIDE = 4096


@dataclasses.dataclass(frozen=True)
class _Plan:
    """What is static: how many keys there are, tokens a chunk (wide: of queries where it is not a
    CPU that computes), tokens a causal block.
    """

    keys: int
    query_chunk: int
    wide: int
    key_chunk: int
    block: int | None

    def elsewhere(self) -> "_Plan":
        """Returns the plan of all but CPUs."""
        return dataclasses.replace(self, query_chunk=self.wide)

    def key_chunks(self, index: Array) -> tuple[int, Array | int]:
        """Returns the chunks of keys [first, last) of which chunk `index` of queries sees any."""
        count = -(-self.keys // self.key_chunk)
        if self.block is None:
            return 0, count
        last = (index + 1) * self.query_chunk - 1
        seen = (last // self.block + 1) * self.block
        return 0, jnp.minimum((seen + self.key_chunk - 1) // self.key_chunk, count)

    def query_chunks(self, index: Array, count: int) -> tuple[Array | int, int]:
        """Returns the chunks of queries [first, last), of `count`, that see chunk `index` of keys
        or may do so."""
        if self.block is None:
            return 0, count
        first = index * self.key_chunk // self.block * self.block
        return jnp.minimum(first // self.query_chunk, count), count


def chunked(
    q: Float[Array, "B L N K"],
    k: Float[Array, "B S N K"],
    v: Float[Array, "B S N K"],
    *,
    mask: Mask | None = None,
    scale: float,
    query_chunk: int | None = None,
    key_chunk: int = CHUNK,
) -> tuple[Float[Array, "B L N K"], Float[Array, "B L N"]]:
    """Equals `reference` without an L x S array, forward or backward (chunks are recomputed).

    query_chunk, key_chunk: tokens of a chunk, at most; causal blocks skip chunks that they hide.
    query_chunk None: `CHUNK` on CPU, `WIDE` elsewhere.
    Products run in the dtype of q, k and v (of several: in the widest) and add up in float32. The
    running maximum m, sum and output of a query are rescaled by exp(m_old - m_new) as chunks of
    keys arrive (Milakov, Gimelshein 2018); backward goes by the last of them (Dao et al. 2022,
    arXiv 2205.14135). Raises `UserError` for chunks of less than one token, `NotImplementedError`
    without queries or keys.
    """
    own, wide = (CHUNK, WIDE) if query_chunk is None else (query_chunk, query_chunk)
    if own < 1 or key_chunk < 1:
        raise UserError(f"chunks have 1 token or more, not {own} (queries), {key_chunk}")
    arranged = _arranged(q, k, v, mask, scale, (own, wide, key_chunk))
    out, lse = _attend(*arranged)
    return jnp.swapaxes(out, 1, 2).astype(q.dtype), jnp.swapaxes(lse, 1, 2)


def chunked_gradients(
    q: Float[Array, "B L N K"],
    k: Float[Array, "B S N K"],
    v: Float[Array, "B S N K"],
    out: Float[Array, "B L N K"],
    lse: Float[Array, "B L N"],
    grad: Float[Array, "B L N K"],
    *,
    mask: Mask | None = None,
    scale: float,
) -> tuple[Float[Array, "B L N K"], Float[Array, "B S N K"], Float[Array, "B S N K"]]:
    """Returns the gradients of q, k and v, as `attention_gradients` does."""
    plan, *arrays, bias = _arranged(q, k, v, mask, scale, (CHUNK, WIDE, CHUNK))
    out, grad, lse = (jnp.swapaxes(x, 1, 2) for x in (out, grad, lse))
    saved = (*arrays, bias, out, jnp.ones_like(lse), lse)
    dq, dk, dv, _ = _attend_backward(plan, saved, (grad, jnp.zeros_like(lse)))
    pairs = ((dq.astype(jnp.float32) * scale, q), (dk, k), (dv, v))
    return tuple(jnp.swapaxes(dx, 1, 2).astype(x.dtype) for dx, x in pairs)


def _arranged(
    q: Array, k: Array, v: Array, mask: Mask | None, scale: float, chunks: tuple[int, int, int]
) -> tuple[_Plan, Array, Array, Array, Array | None]:
    """Returns the arguments of `_attend`."""
    if why := none_refused(q, k):
        raise NotImplementedError(f"chunked attention {why}")
    plan = _Plan(
        keys=k.shape[1],
        query_chunk=_chunk(q.shape[1], chunks[0]),
        wide=_chunk(q.shape[1], chunks[1]),
        key_chunk=_chunk(k.shape[1], chunks[2]),
        block=None if mask is None else mask.causal_block,
    )
    dtype = jnp.result_type(q, k, v)
    scaled = q.astype(jnp.float32) * scale  # rounded once, and not the scale as well
    heads_first = (jnp.swapaxes(x.astype(dtype), 1, 2) for x in (scaled, k, v))
    return plan, *heads_first, key_bias(mask, length=k.shape[1])


def _chunk(length: int, most: int) -> int:
    """Returns the size of chunks of at most `most` that pad `length` the least."""
    count = -(-length // most)
    return min(-(-length // count // MULTIPLE) * MULTIPLE, most)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attend(
    plan: _Plan,
    q: Float[Array, "B N L K"],
    k: Float[Array, "B N S K"],
    v: Float[Array, "B N S K"],
    bias: Float[Array, "B S"] | None,
) -> tuple[Float[Array, "B N L K"], Float[Array, "B N L"]]:
    return _attend_forward(plan, q, k, v, bias)[0]


def _attend_forward(plan: _Plan, q: Array, k: Array, v: Array, bias: Array | None):
    found = _by_platform(_forward, plan, q, k, v, bias)
    out, total, top = map(kept, found)
    lse = jnp.where(_empty(top), MASKED, top + jnp.log(total))
    return (out, lse), (q, k, v, bias, out, total, top)


def _attend_backward(plan: _Plan, saved: tuple, grads: tuple[Array, Array]):
    q, k, v, bias, out, total, top = saved
    grad, grad_lse = grads
    part = jnp.where(_empty(top), 0.0, 1 / total)  # queries without keys have no gradient
    grad = grad.astype(jnp.float32) * part[..., None]
    common = jnp.sum(grad * out.astype(jnp.float32), axis=-1) - grad_lse * part
    rows = jnp.stack([top, common], axis=-1)
    grads = _by_platform(_backward, plan, q, k, v, bias, grad.astype(q.dtype), rows)
    return *(dx.astype(q.dtype) for dx in grads), None


_attend.defvjp(_attend_forward, _attend_backward)


def _by_platform(
    run: Callable[..., Any],
    plan: _Plan,
    q: Array,
    k: Array,
    v: Array,
    bias: Array | None,
    *more: Array,
) -> Any:
    """Returns `run(plan, q, k, v, bias, ...)`, of all heads at once or, on CPU, of one after the
    other: XLA's products of two matrices are faster there than those of stacks of them."""
    bias = None if bias is None else jnp.broadcast_to(bias[:, None], (*k.shape[:2], k.shape[2]))

    def one_by_one(*arrays: Any) -> Any:
        flat = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), arrays)
        found = jax.lax.map(lambda own: run(plan, *own), flat)
        return jax.tree.map(lambda x: x.reshape(*q.shape[:2], *x.shape[1:]), found)

    at_once = functools.partial(run, plan.elsewhere())
    return jax.lax.platform_dependent(q, k, v, bias, *more, cpu=one_by_one, default=at_once)


def _forward(
    plan: _Plan,
    q: Float[Array, "*R L K"],
    k: Float[Array, "*R S K"],
    v: Float[Array, "*R S K"],
    bias: Float[Array, "*R S"] | None,
) -> tuple[Float[Array, "*R L K"], Float[Array, "*R L"], Float[Array, "*R L"]]:
    """Returns the outputs and, float32, the sum of exp(logit - maximum) and the maximum."""
    length = q.shape[-2]
    q = _padded(q, plan.query_chunk)
    k, v = _padded(k, plan.key_chunk), _padded(v, plan.key_chunk)

    def one_query_chunk(index: Array) -> tuple[Array, Array, Array]:
        query = _cut(q, index, plan.query_chunk)

        def one_key_chunk(position: Array, carry: tuple) -> tuple:
            total, top, out = carry
            logits = _logits(plan, index, position, query, k, bias)
            new_top = jnp.maximum(top, jnp.max(logits, axis=-1, keepdims=True))
            old, share = jnp.exp(top - new_top), jnp.exp(logits - new_top)
            total = total * old + jnp.sum(share, axis=-1, keepdims=True)
            new = _product("...ls,...sk->...lk", share, _cut(v, position, plan.key_chunk))
            return total, new_top, out * old + new

        row = (*query.shape[:-1], 1)
        start = (jnp.zeros(row), jnp.full(row, MASKED), jnp.zeros(query.shape))
        span = plan.key_chunks(index)
        total, top, out = jax.lax.fori_loop(*span, one_key_chunk, start)
        total = jnp.where(_empty(top), 1.0, total)
        return jnp.where(_empty(top), 0.0, out / total).astype(q.dtype), total, top

    found = jax.lax.map(one_query_chunk, jnp.arange(q.shape[-2] // plan.query_chunk))
    out, total, top = (_joined(x)[..., :length, :] for x in found)
    return out, total[..., 0], top[..., 0]


def _backward(
    plan: _Plan,
    q: Float[Array, "*R L K"],
    k: Float[Array, "*R S K"],
    v: Float[Array, "*R S K"],
    bias: Float[Array, "*R S"] | None,
    grad: Float[Array, "*R L K"],
    rows: Float[Array, "*R L 2"],
) -> tuple[Array, Array, Array]:
    """Returns the gradients of q, k and v, float32.

    grad: of the outputs, divided by the sum of the row. rows: its maximum, and what the gradients
    of all its weights have in common.
    """
    length, keys = q.shape[-2], plan.keys
    q, grad, rows = (_padded(x, plan.query_chunk) for x in (q, grad, rows))
    k, v = _padded(k, plan.key_chunk), _padded(v, plan.key_chunk)
    count = q.shape[-2] // plan.query_chunk
    turn = q.dtype == jnp.float32
    if turn:
        # Products of two matrices that are added up along the first axis of both are less than half
        # as fast on CPU. A barrier, or XLA would put the turning into the product. (bfloat16, which
        # XLA refuses there in this form, is not what one computes in on CPU.)
        turned = jax.lax.optimization_barrier([jnp.swapaxes(x, -1, -2) for x in (q, grad)])

    def added_up(weight: Array, which: int, index: Array) -> Array:
        """Returns x^T weight, [k, s], of a chunk of queries (which: 0) or their gradients (1)."""
        if not turn:
            x = _cut((q, grad)[which], index, plan.query_chunk)
            return _product("...ls,...lk->...ks", weight, x)
        x = _cut(turned[which], index, plan.query_chunk, axis=-1)
        return _product("...kl,...ls->...ks", x, weight)

    def one_key_chunk(dq: Array, position: Array) -> tuple[Array, tuple]:
        key, value = (_cut(x, position, plan.key_chunk) for x in (k, v))

        def one_query_chunk(index: Array, carry: tuple) -> tuple:
            dq, dk, dv = carry
            query, g, row = (_cut(x, index, plan.query_chunk) for x in (q, grad, rows))
            top, common = jnp.split(row, 2, axis=-1)
            weight = jnp.exp(_logits(plan, index, position, query, k, bias) - top)
            dv = dv + added_up(weight, 1, index)
            dlogits = weight * (_product("...lk,...sk->...ls", g, value) - common)
            dk = dk + added_up(dlogits, 0, index)
            more = _product("...ls,...sk->...lk", dlogits, key)
            begin = index * plan.query_chunk
            more = more + jax.lax.dynamic_slice_in_dim(dq, begin, plan.query_chunk, axis=-2)
            dq = jax.lax.dynamic_update_slice_in_dim(dq, more, begin, axis=-2)
            return dq, dk, dv

        zeros = jnp.zeros((*key.shape[:-2], key.shape[-1], key.shape[-2]))
        span = plan.query_chunks(position, count)
        dq, dk, dv = jax.lax.fori_loop(*span, one_query_chunk, (dq, zeros, zeros))
        return dq, (jnp.swapaxes(dk, -1, -2), jnp.swapaxes(dv, -1, -2))

    chunks = jnp.arange(k.shape[-2] // plan.key_chunk)
    dq, (dk, dv) = jax.lax.scan(one_key_chunk, jnp.zeros(q.shape), chunks)
    dk, dv = (_joined(x)[..., :keys, :] for x in (dk, dv))
    return dq[..., :length, :], dk, dv


def _empty(top: Float[Array, "*R L"]) -> Bool[Array, "*R L"]:
    """Returns which queries, with these maxima, have seen no key."""
    return top <= MASKED / 2


def _logits(
    plan: _Plan, index: Array, position: Array, query: Array, k: Array, bias: Array | None
) -> Float[Array, "*R l s"]:
    """Returns what chunk `index` of queries makes of chunk `position` of keys, float32."""
    key = _cut(k, position, plan.key_chunk)
    logits = _product("...lk,...sk->...ls", query, key)
    if bias is not None:
        own = _cut(_padded(bias[..., None], plan.key_chunk), position, plan.key_chunk)
        logits = logits + jnp.swapaxes(own, -1, -2)
    places = position * plan.key_chunk + jnp.arange(plan.key_chunk)
    seen = visible(
        Mask(causal_block=plan.block),
        index * plan.query_chunk + jnp.arange(plan.query_chunk),
        places,
    )
    if plan.keys % plan.key_chunk:
        real = (places < plan.keys)[None]
        seen = real if seen is None else seen & real
    if seen is None:
        return logits
    return jnp.where(seen.reshape((1,) * (logits.ndim - 2) + seen.shape), logits, MASKED)


def _product(subscripts: str, x: Array, y: Array) -> Array:
    """Returns a product of numbers of the dtype of y, float32."""
    given = {"precision": precision(y.dtype), "preferred_element_type": jnp.float32}
    return jnp.einsum(subscripts, x.astype(y.dtype), y, **given)


def _padded(x: Float[Array, "*R L K"], size: int) -> Float[Array, "*R P K"]:
    """Returns `x` with zeros behind its tokens up to whole chunks."""
    more = -x.shape[-2] % size
    return jnp.pad(x, [(0, 0)] * (x.ndim - 2) + [(0, more), (0, 0)]) if more else x


def _cut(x: Float[Array, "*R _ _"], index: Array, size: int, axis: int = -2) -> Array:
    """Returns chunk `index` of the tokens of `x`, which are along `axis`."""
    return jax.lax.dynamic_slice_in_dim(x, index * size, size, axis=axis)


def _joined(x: Float[Array, "C *R l K"]) -> Float[Array, "*R P K"]:
    """Returns chunks as one axis of tokens."""
    x = jnp.moveaxis(x, 0, -3)
    return x.reshape(*x.shape[:-3], -1, x.shape[-1])
