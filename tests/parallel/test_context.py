"""Attention over divided tokens equals attention on one device, forward and backward."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from skyreels_jax.core.errors import UserError
from skyreels_jax.kernels.attention import Attention, Mask, attention, residuals
from skyreels_jax.parallel.context import ContextAttention
from skyreels_jax.parallel.mesh import MeshConfig, make_mesh

RNG = np.random.default_rng(0)
B, T, S, N, K = 2, 4, 8, 4, 8
Q, KEY, VALUE, WEIGHT = (
    jnp.asarray(RNG.standard_normal((B, T, S, N, K)), jnp.float32) for _ in range(4)
)
TEXT, WORDS = (jnp.asarray(RNG.standard_normal((B, 5, N, K)), jnp.float32) for _ in range(2))
MESHES = {
    "context": MeshConfig(context=8),
    "heads too": MeshConfig(context=2, tensor=2, data=2),
    "clips too": MeshConfig(context=4, fsdp=2),
}


def over(mesh: MeshConfig, kind: str, impl: str | None = None) -> ContextAttention:
    return ContextAttention(mesh=make_mesh(mesh), kind=kind, attention=Attention(impl=impl))


def value_and_grads(attend, q, k, v, mask):
    def total(q, k, v):
        out = attend(q, k, v, mask=mask)
        return (out * WEIGHT).sum(), out

    return jax.jit(jax.grad(total, (0, 1, 2), has_aux=True))(q, k, v)


def check(attend, q, k, v, mask):
    ours, expected = (value_and_grads(a, q, k, v, mask) for a in (attend, attention))
    for a, b in zip(*map(jax.tree.leaves, (ours, expected)), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


@pytest.mark.parametrize("mask", [None, Mask(causal_block=2 * S)], ids=["full", "causal"])
@pytest.mark.parametrize(
    ("kind", "mesh"),
    [
        *(("ring", mesh) for mesh in MESHES),
        *(("ulysses", mesh) for mesh in ("heads too", "clips too")),
    ],
)
def test_among_video_tokens(kind, mesh, mask):
    check(over(MESHES[mesh], kind), Q, KEY, VALUE, mask)


@pytest.mark.parametrize("mask", [None, Mask(causal_block=2 * S)], ids=["full", "causal"])
def test_a_ring_of_chunks(mask):
    check(over(MESHES["clips too"], "ring", "chunked"), Q, KEY, VALUE, mask)


class Counted(Attention):
    """To keys alone whose first number is positive."""

    def attend(self, q, k, v, *, mask=None):
        return super().attend(q, k, v, mask=counted(mask, k))

    def attend_lse(self, q, k, v, *, mask):
        return super().attend_lse(q, k, v, mask=counted(mask, k))

    def gradients(self, q, k, *more, mask):
        return super().gradients(q, k, *more, mask=counted(mask, k))


def counted(mask, k):
    weight = (k[..., 0, 0] > 0).reshape(len(k), -1).astype(jnp.float32)
    return dataclasses.replace(mask or Mask(), kv_weight=weight)


@pytest.mark.parametrize("mask", [None, Mask(causal_block=2 * S)], ids=["full", "causal"])
def test_a_ring_of_which_most_devices_have_no_keys(mask):
    """What they give is merged as nothing; the first causal block has no keys on any of them."""
    counts = jnp.zeros((T, S)).at[2:, jnp.asarray([2, 5])].set(1)
    keys = KEY.at[..., 0, 0].set(counts - 0.5)
    ring = ContextAttention(mesh=make_mesh(MESHES["context"]), kind="ring", attention=Counted())
    ways = (ring, Counted().attend)
    ours, expected = (value_and_grads(attend, Q, keys, VALUE, mask) for attend in ways)
    for a, b in zip(*map(jax.tree.leaves, (ours, expected)), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)
    (dq, *_), out = ours
    assert np.any(out[:, 2:]) and np.any(dq[:, 2:])
    assert mask is None or not (np.any(out[:, :2]) or np.any(dq[:, :2]))


@pytest.mark.parametrize("kind", ["ring", "ulysses"])
def test_to_a_text_whose_tokens_count_differently(kind):
    weight = jnp.asarray([[1.0, 1, 1, 0, 0], [1, 1, 1, 1, 7.0]])
    check(over(MESHES["clips too"], kind), Q, TEXT, WORDS, Mask(kv_weight=weight))


def test_what_cannot_be_divided_is_refused():
    with pytest.raises(UserError, match="4 heads over 8 devices.*ring attention needs no h"):
        over(MESHES["context"], "ulysses")(Q, KEY, VALUE)
    with pytest.raises(UserError, match="4 heads over 8 devices.*legal: divisors$"):
        over(MeshConfig(tensor=8), "ulysses")(Q, KEY, VALUE)
    with pytest.raises(UserError, match="ring attention cannot divide 2 clips over 4"):
        over(MeshConfig(fsdp=4, context=2), "ring")(Q, KEY, VALUE)
    with pytest.raises(UserError, match="in a ring are .* multiples of 8 tokens, not 12"):
        over(MESHES["clips too"], "ring")(Q, KEY, VALUE, mask=Mask(causal_block=12))


def test_a_mask_that_hides_nothing():
    check(over(MESHES["clips too"], "ring"), Q, KEY, VALUE, Mask())


def test_no_keys_are_gathered():
    """Ulysses trades by all-to-all, a ring by permutation; neither gathers keys and values."""
    for kind, wanted in (("ulysses", "all-to-all"), ("ring", "collective-permute")):
        attend = over(MESHES["clips too"], kind)
        total = jax.grad(lambda *x, attend=attend: attend(*x).sum(), (0, 1, 2))
        text = jax.jit(total).lower(Q, KEY, VALUE).compile().as_text()
        assert wanted in text and "all-gather" not in text


@pytest.mark.parametrize("impl", ["reference", "chunked"])
def test_a_ring_leaves_what_it_merged_and_no_turn_of_it(impl):
    """For backward, whatever the number of devices."""
    ring = over(MESHES["context"], "ring", impl)

    def total(q, k, v):
        return (ring(q, k, v) * WEIGHT).sum()

    for run in (total, jax.checkpoint(total, policy=residuals.keeps)):
        left = jax.eval_shape(lambda *x, run=run: jax.vjp(run, *x)[1], Q, KEY, VALUE)
        numbers = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(left))
        # Queries, keys, values, the output, the weight here; a log-sum-exp for each head.
        assert numbers == 5 * Q.size + Q.size // K
