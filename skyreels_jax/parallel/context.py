"""Attention over tokens that are divided among devices.

Ulysses (Jacobs et al. 2023, arXiv 2309.14509): before attention each device trades its part of all
heads' tokens for all tokens of its part of the heads, and back behind it.
Ring (Liu et al. 2023, arXiv 2310.01889): each device keeps its queries, the keys and values go
round, and what they give is merged by log-sum-exp. Backward they go round once more, and their
gradients with them: a device never has more than its own part and one that passes.

Devices have parts of every frame, so in a ring all pairs of parts have the same causal blocks.
"""

import dataclasses
import functools
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Float

from skyreels_jax.core.errors import UserError
from skyreels_jax.parallel.activations import spec
from skyreels_jax.parallel.mesh import BATCH

QUERIES = spec("batch", None, "tokens", "heads", None)
TEXT = spec("batch", None, "heads", None)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ContextAttention:
    """`attention` (as `kernels.attention.Attention`) with the tokens of each frame over "context",
    heads over "tensor", clips over "data" and "fsdp".

    Called with queries [B, T, S, N, K] and keys and values of the same kind, which are divided as
    they are, or [B, S, N, K] (of a text), which all devices hold whole.
    """

    mesh: Mesh
    kind: Literal["ulysses", "ring"]
    attention: Any

    def __call__(
        self,
        q: Float[Array, "B T S N K"],
        k: Float[Array, "B *L N K"],
        v: Float[Array, "B *L N K"],
        *,
        mask: Any = None,
    ) -> Float[Array, "B T S N K"]:
        own = k.ndim == q.ndim
        self._check(q, exchanged=own and self.kind == "ulysses")
        inside = self.attention.attend
        if own:
            inside = self._ulysses if self.kind == "ulysses" else self._ring
        keys = QUERIES if own else TEXT
        return jax.shard_map(
            lambda q, k, v, mask: inside(q, k, v, mask=mask),
            mesh=self.mesh,
            in_specs=(QUERIES, keys, keys, PartitionSpec(BATCH)),
            out_specs=QUERIES,
            check_vma=False,
        )(q, k, v, mask)

    def _check(self, q: Array, *, exchanged: bool) -> None:
        context, tensor = self.mesh.shape["context"], self.mesh.shape["tensor"]
        batch = self.mesh.shape["data"] * self.mesh.shape["fsdp"]
        heads = tensor * (context if exchanged else 1)
        wanted = {"clips": (q.shape[0], batch), "tokens of a frame": (q.shape[2], context)}
        wanted["heads"] = (q.shape[3], heads)
        if odd := [f"{n} {name} over {d}" for name, (n, d) in wanted.items() if n % d]:
            ring_can = exchanged and q.shape[3] % tensor == 0
            raise UserError(
                f"{self.kind} attention cannot divide {', '.join(odd)} devices "
                f"(data x fsdp {batch}, tensor {tensor}, context {context}); legal: divisors"
                + ("; ring attention needs no heads for context" if ring_can else "")
            )

    def _ulysses(self, q: Array, k: Array, v: Array, *, mask: Any) -> Array:
        def trade(x: Array, give: int, take: int) -> Array:
            return jax.lax.all_to_all(x, "context", give, take, tiled=True)

        q, k, v = (trade(x, 3, 2) for x in (q, k, v))
        return trade(self.attention.attend(q, k, v, mask=mask), 2, 3)

    def _ring(self, q: Array, k: Array, v: Array, *, mask: Any) -> Array:
        devices = self.mesh.shape["context"]
        mask = _local(mask, devices, frame=q.shape[2] * devices)
        return _round(_Ring(self.attention, devices, mask), q, k, v)


@dataclasses.dataclass(frozen=True)
class _Ring:
    """Devices whose queries meet all keys, and how they attend to those of one of them."""

    attention: Any
    devices: int
    mask: Any

    def passed(self, *arrays: Array) -> tuple[Array, ...]:
        """Returns those of the device before."""
        following = [(i, (i + 1) % self.devices) for i in range(self.devices)]
        return tuple(jax.lax.ppermute(x, "context", following) for x in arrays)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _round(ring: _Ring, q: Array, k: Array, v: Array) -> Array:
    return _round_forward(ring, q, k, v)[0]


def _round_forward(ring: _Ring, q: Array, k: Array, v: Array) -> tuple[Array, tuple[Array, ...]]:
    def turn(carry: tuple, _: None) -> tuple[tuple, None]:
        out, lse, k, v = carry
        k, v = ring.passed(k, v)
        more, more_lse = ring.attention.attend_lse(q, k, v, mask=ring.mask)
        total = jnp.logaddexp(lse, more_lse)
        old, new = (jnp.exp(x - total)[..., None] for x in (lse, more_lse))
        return (out * old + more.astype(jnp.float32) * new, total, k, v), None

    out, lse = ring.attention.attend_lse(q, k, v, mask=ring.mask)
    start = (out.astype(jnp.float32), lse, k, v)
    (out, lse, *_), _ = jax.lax.scan(turn, start, None, length=ring.devices - 1)
    out, lse = ring.attention.kept(out.astype(q.dtype)), ring.attention.kept(lse)
    return out, (q, k, v, out, lse)


def _round_backward(ring: _Ring, saved: tuple[Array, ...], grad: Array) -> tuple[Array, ...]:
    q, k, v, out, lse = saved

    def turn(carry: tuple, _: None) -> tuple[tuple, None]:
        dq, k, v, dk, dv = carry
        more = ring.attention.gradients(q, k, v, out, lse, grad, mask=ring.mask)
        sums = zip((dq, dk, dv), more, strict=True)
        dq, dk, dv = (old + new.astype(jnp.float32) for old, new in sums)
        return (dq, *ring.passed(k, v, dk, dv)), None

    dq, dk, dv = (jnp.zeros(x.shape, jnp.float32) for x in (q, k, v))
    # All the way round: the gradients end where their keys and values are at home. (These need not
    # pass the last time, but without that the kernels would be in the program twice.)
    (dq, _, _, dk, dv), _ = jax.lax.scan(turn, (dq, k, v, dk, dv), None, length=ring.devices)
    return dq.astype(q.dtype), dk.astype(k.dtype), dv.astype(v.dtype)


_round.defvjp(_round_forward, _round_backward)


def _local(mask: Any, devices: int, *, frame: int) -> Any:
    """Returns the mask between two devices' parts of the frames; frame: tokens of a whole one."""
    if mask is None:
        return None
    if mask.kv_weight is not None or mask.kv_length is not None:
        raise NotImplementedError("a ring has causal blocks and no other masks of video tokens")
    block = mask.causal_block
    if block is None:
        return None
    if block % frame:
        raise UserError(
            f"causal blocks in a ring are of whole frames: multiples of {frame} tokens, not {block}"
        )
    return dataclasses.replace(mask, causal_block=block // devices)
