"""The forward kernel of attention on Hopper GPUs (Mosaic GPU: wgmma, TMA, specialised warpgroups).

The scheme is FlashAttention-3's (Shah et al. 2024, arXiv 2407.08608): a warpgroup copies, the
others compute and take turns ("ping-pong"), so that one's products fill the tensor cores while
another does its softmax. A turn is: the product with the values of this step, then that of the next
step's logits; the output is rescaled while the latter runs.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu
from jaxtyping import Array, Float, Int

from skyreels_jax.kernels.attention.gpu.parts import (
    LOG2E,
    ROWS,
    Sizes,
    along,
    drain,
    give_back,
    hide_later_blocks,
    kernel,
    key_steps,
    multiply,
    read,
    rest,
    share_registers,
    spare,
    spread,
    whole,
)
from skyreels_jax.kernels.attention.mask import MASKED


def forward(
    q: Float[Array, "B L N K"],
    k: Float[Array, "B S N K"],
    v: Float[Array, "B S N K"],
    bias: Float[Array, "B S"],
    lengths: Int[Array, "B"],
    *,
    sizes: Sizes,
) -> tuple[Float[Array, "B L N K"], Float[Array, "B N L"]]:
    """Returns attention and the logarithm (base 2) of the softmax's sum, `MASKED` without keys.

    L and S are multiples of the tile. bias: to add to the logits, over `scale`, and
    `sizes.hidden` for hidden keys; read in tiles that the padding of keys, `lengths` or weights
    cut.
    """
    batch, length, heads, width = q.shape
    consumers, columns, stages = sizes.consumers, sizes.columns, sizes.stages
    # Everything a consumer waits for has a barrier of its own.
    scratch = [
        whole(consumers, ROWS, width, dtype=q.dtype),
        whole(stages, columns, width, dtype=q.dtype),
        whole(stages, columns, width, dtype=q.dtype),
        plgpu.SMEM((stages, columns), jnp.float32),
        plgpu.SMEM((consumers, ROWS), jnp.float32),
        plgpu.Barrier(num_barriers=consumers),
        plgpu.Barrier(num_barriers=stages, num_arrivals=2),
        plgpu.Barrier(num_barriers=stages),
        plgpu.Barrier(num_barriers=stages, num_arrivals=consumers),
        plgpu.Barrier(num_barriers=stages, num_arrivals=consumers),
        plgpu.Barrier(num_barriers=consumers),
        spare(sizes, count=1, dtype=q.dtype),
    ]
    out = [q.dtype, jnp.float32]
    shapes = [q.shape, (batch, heads, length)]
    run = kernel(
        functools.partial(_body, sizes=sizes),
        name="forward",
        sizes=sizes,
        grid=(batch, heads, length // sizes.rows),
        out=[jax.ShapeDtypeStruct(s, d) for s, d in zip(shapes, out, strict=True)],
        scratch=scratch,
    )
    return tuple(run(q, k, v, bias, lengths))


def _body(q, k, v, bias, lengths, out, lse, *scratch, sizes: Sizes) -> None:
    tile, group = lax.axis_index("tile"), lax.axis_index("warpgroup")
    if sizes.causal is not None:  # the longest first
        tile = jnp.int32(out.shape[1] // sizes.rows - 1) - tile
    length = lengths[lax.axis_index("batch")]
    full, steps = key_steps(sizes, tile, length)
    if sizes.weighted:
        full = jnp.int32(0)

    @pl.when(group == sizes.consumers)
    def _():
        share_registers(sizes, copier=True)
        _copy(k, v, bias, scratch, steps, sizes=sizes)

    @pl.when(group < sizes.consumers)
    def _():
        share_registers(sizes, copier=False)
        _compute(q, out, lse, scratch, tile, full, steps, sizes=sizes)


def _copy(k, v, bias, scratch, steps, *, sizes: Sizes) -> None:
    _, k_ring, v_ring, bias_ring, _, _, k_full, v_full, k_empty, v_empty, *_ = scratch
    batch, head = lax.axis_index("batch"), lax.axis_index("head")

    @pl.loop(jnp.int32(0), steps)
    def _(step):
        slot = rest(step, sizes.stages)
        tokens = pl.ds(step * jnp.int32(sizes.columns), sizes.columns)
        used = step >= sizes.stages
        pl.when(used)(lambda: plgpu.barrier_wait(k_empty.at[slot]))
        plgpu.copy_gmem_to_smem(k.at[batch, tokens, head], k_ring.at[slot], k_full.at[slot])
        plgpu.copy_gmem_to_smem(bias.at[batch, tokens], bias_ring.at[slot], k_full.at[slot])
        pl.when(used)(lambda: plgpu.barrier_wait(v_empty.at[slot]))
        plgpu.copy_gmem_to_smem(v.at[batch, tokens, head], v_ring.at[slot], v_full.at[slot])

    drain(steps, sizes, k_empty, v_empty)


class _Consumer:
    """A warpgroup that computes: its number `own`, its first query `rows`, its steps."""

    def __init__(self, scratch, *, tile, sizes: Sizes):
        self.q, self.k_ring, self.v_ring, self.bias_ring, self.lse, *barriers = scratch
        self.q_full, self.k_full, self.v_full, self.k_empty, self.v_empty, *barriers = barriers
        self.turns, self.shares = barriers
        self.sizes, self.others = sizes, sizes.consumers > 1
        self.own = lax.axis_index("warpgroup")
        self.following = rest(self.own + 1, sizes.consumers)
        self.rows = tile * jnp.int32(sizes.rows) + self.own * jnp.int32(ROWS)
        self.width, self.shape = self.q.shape[-1], (ROWS, sizes.columns)
        self.factor = sizes.scale * LOG2E

    def take_turn(self) -> None:
        if self.others:
            plgpu.barrier_wait(self.turns.at[self.own])

    def pass_turn(self, *, where=None) -> None:
        """Gives the turn to the next in the row; `where`: to who passes it, if not all do."""
        if self.others:
            give = lambda: plgpu.barrier_arrive(self.turns.at[self.following])  # noqa: E731
            give() if where is None else pl.when(where)(give)

    def logits(self, step, *, masked: bool, meanwhile=None):
        """Returns the logits over `scale`; passes the turn on, does `meanwhile` as they run."""
        sizes, slot = self.sizes, rest(step, self.sizes.stages)
        plgpu.barrier_wait(self.k_full.at[slot])

        def run(acc):
            plgpu.wgmma(acc, self.q.at[self.own], self.k_ring.at[slot].T)
            self.pass_turn()
            done = None if meanwhile is None else lax.optimization_barrier(meanwhile())
            return acc[...], done

        found, done = pl.run_scoped(run, plgpu.ACC(self.shape, jnp.float32))
        if masked:
            found = found + along(read(self.bias_ring.at[slot], of_rows=False), self.shape, 1)
            if sizes.causal is not None:
                column = step * jnp.int32(sizes.columns)
                found = hide_later_blocks(
                    found, sizes, row=self.rows, column=column, rows="queries"
                )
        give_back(self.k_empty.at[slot], was_read=masked)
        return found, done

    def softmax(self, found, top, total):
        """Returns the shares, how much the sum so far shrinks, and the new maximum and sum."""
        new_top = lax.max(top, found.max(axis=1) * self.factor)
        old = jnp.exp2(top - new_top)
        share = jnp.exp2(found * self.factor - along(new_top, self.shape, 0))
        return share.astype(self.q.dtype), old, new_top, total * old + share.sum(axis=1)

    def values(self, step, share):
        """Takes the turn; returns the product of the shares with the values."""
        slot = rest(step, self.sizes.stages)
        plgpu.barrier_wait(self.v_full.at[slot])
        self.take_turn()

        def run(acc):
            place = None if self.shares is None else self.shares.at[self.own, 0]
            multiply(acc, share, self.v_ring.at[slot], place)
            return acc[...]

        added = pl.run_scoped(run, plgpu.ACC((ROWS, self.width), jnp.float32))
        plgpu.barrier_arrive(self.v_empty.at[slot])
        return added

    def one(self, step, carry, *, masked: bool):
        """A turn; masked: the next step's logits."""
        acc, top, total, found = carry
        share, old, top, total = self.softmax(found, top, total)
        added = self.values(step, share)

        def rescaled():
            return acc * along(old, (ROWS, self.width), 0) + added

        found, acc = self.logits(step + 1, masked=masked, meanwhile=rescaled)
        return acc, top, total, found


def _compute(q, out, lse, scratch, tile, full, steps, *, sizes: Sizes) -> None:
    me = _Consumer(scratch, tile=tile, sizes=sizes)
    batch, head, tokens = lax.axis_index("batch"), lax.axis_index("head"), pl.ds(me.rows, ROWS)
    own, last = me.own, sizes.consumers - 1
    plgpu.copy_gmem_to_smem(q.at[batch, tokens, head], me.q.at[own], me.q_full.at[own])
    me.pass_turn(where=own == last)  # the first turn is given by the last in the row
    plgpu.barrier_wait(me.q_full.at[own])

    me.take_turn()
    cut = sizes.weighted or sizes.cut or sizes.causal is not None
    found, _ = me.logits(jnp.int32(0), masked=cut)
    carry = (spread(0.0, ROWS, me.width), spread(MASKED, ROWS), spread(0.0, ROWS), found)
    whole_steps = lax.max(lax.min(full, steps) - 1, 0)
    plain, masked = (functools.partial(me.one, masked=flag) for flag in (False, True))
    carry = lax.fori_loop(0, whole_steps, plain, carry)
    if cut:
        carry = lax.fori_loop(whole_steps, steps - 1, masked, carry)
    acc, top, total, found = carry
    share, old, top, total = me.softmax(found, top, total)
    acc = acc * along(old, (ROWS, me.width), 0) + me.values(steps - 1, share)
    me.pass_turn(where=own < last)  # the last has no one to give its last turn to

    empty = top <= MASKED / 2
    acc = acc * along(jnp.where(empty, 0.0, 1 / total), (ROWS, me.width), 0)
    me.q.at[own][...] = acc.astype(q.dtype)
    me.lse.at[own][...] = jnp.where(empty, MASKED, top + jnp.log(total) * LOG2E)
    plgpu.commit_smem()
    plgpu.copy_smem_to_gmem(me.q.at[own], out.at[batch, tokens, head])
    plgpu.copy_smem_to_gmem(me.lse.at[own], lse.at[batch, head, tokens])
    plgpu.wait_smem_to_gmem(0)
