"""Attention over tokens that are divided among devices.

Ulysses (Jacobs et al. 2023, arXiv 2309.14509): before attention each device trades its part of all
heads' tokens for all tokens of its part of the heads, and back behind it.
Ring (Liu et al. 2023, arXiv 2310.01889): each device keeps its queries, the keys and values go
round, and what they give is merged by log-sum-exp.

Devices have parts of every frame, so in a ring all pairs of parts have the same causal blocks.
"""

import dataclasses
from collections.abc import Callable
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
Attend = Callable[..., Any]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ContextAttention:
    """`attend` (as `kernels.attention.attention`) with the tokens of each frame over "context",
    heads over "tensor", clips over "data" and "fsdp".

    Called with queries [B, T, S, N, K] and keys and values of the same kind, which are divided as
    they are, or [B, S, N, K] (of a text), which all devices hold whole.
    attend_lse: the same with the logarithm of the softmax's sum [B, *L, N] as a second result.
    """

    mesh: Mesh
    kind: Literal["ulysses", "ring"]
    attend: Attend
    attend_lse: Attend

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
        inside = self.attend if not own else self._ulysses if self.kind == "ulysses" else self._ring
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
            raise UserError(
                f"{self.kind} attention cannot divide {', '.join(odd)} devices "
                f"(data x fsdp {batch}, tensor {tensor}, context {context}); legal: divisors"
                + ("; ring attention needs none of the heads" if exchanged else "")
            )

    def _ulysses(self, q: Array, k: Array, v: Array, *, mask: Any) -> Array:
        def trade(x: Array, give: int, take: int) -> Array:
            return jax.lax.all_to_all(x, "context", give, take, tiled=True)

        q, k, v = (trade(x, 3, 2) for x in (q, k, v))
        return trade(self.attend(q, k, v, mask=mask), 2, 3)

    def _ring(self, q: Array, k: Array, v: Array, *, mask: Any) -> Array:
        devices = self.mesh.shape["context"]
        mask = _local(mask, devices, frame=q.shape[2] * devices)
        following = [(i, (i + 1) % devices) for i in range(devices)]

        def merged(out: Array, lse: Array, k: Array, v: Array) -> tuple[Array, Array]:
            more, more_lse = self.attend_lse(q, k, v, mask=mask)
            total = jnp.logaddexp(lse, more_lse)
            old, new = (jnp.exp(x - total)[..., None] for x in (lse, more_lse))
            return out * old + more.astype(jnp.float32) * new, total

        def turn(carry: tuple, _: None) -> tuple[tuple, None]:
            out, lse, k, v = carry
            k, v = (jax.lax.ppermute(x, "context", following) for x in (k, v))
            return (*merged(out, lse, k, v), k, v), None

        out, lse = self.attend_lse(q, k, v, mask=mask)
        start = (out.astype(jnp.float32), lse, k, v)
        (out, *_), _ = jax.lax.scan(turn, start, None, length=devices - 1)
        return out.astype(q.dtype)


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
