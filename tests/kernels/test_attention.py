"""Attention: the reference against torch, every other implementation against the reference."""

import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from skyreels_jax.core.errors import UserError
from skyreels_jax.kernels.attention import Mask, api, attention
from skyreels_jax.kernels.attention.chunked import chunked
from skyreels_jax.kernels.attention.reference import reference

SHAPES = {"even": (2, 32, 32), "ragged": (2, 37, 53), "one query": (1, 1, 19)}  # B, L, S
MASKS = {
    "none": lambda b, s: None,
    "weights": lambda b, s: Mask(kv_weight=_weights(b, s)),
    "lengths": lambda b, s: Mask(kv_length=jnp.asarray([s // 2, s][:b])),
    "both": lambda b, s: Mask(kv_weight=_weights(b, s), kv_length=jnp.asarray([s - 3, 5][:b])),
    "causal": lambda b, s: Mask(causal_block=5),
}


def _weights(batch: int, keys: int) -> jax.Array:
    weights = np.random.default_rng(1).uniform(0, 3, (batch, keys))
    weights[:, ::4] = 0
    weights[:, 1] = 20
    return jnp.asarray(weights, jnp.float32)


def draw(batch: int, length: int, keys: int, *, heads: int = 3, width: int = 8) -> list[jax.Array]:
    rng = np.random.default_rng(0)
    shapes = [(batch, n, heads, width) for n in (length, keys, keys, length)]
    return [jnp.asarray(rng.standard_normal(s), jnp.float32) for s in shapes]


def error(ours, truth) -> float:
    return float(jnp.max(jnp.abs(ours - truth)) / jnp.max(jnp.abs(truth)))


def test_reference_equals_torch():
    q, k, v, _ = draw(2, 7, 9)
    heads_first = [torch.tensor(np.asarray(x)).transpose(1, 2) for x in (q, k, v)]
    expected = torch.nn.functional.scaled_dot_product_attention(*heads_first).transpose(1, 2)
    np.testing.assert_allclose(attention(q, k, v), expected.numpy(), atol=1e-6)


CASES = [("ragged", mask) for mask in MASKS] + [("even", "none"), ("one query", "both")]


@pytest.mark.parametrize(("shape", "mask"), CASES)
def test_chunked_equals_reference_forward_and_backward(shape, mask):
    batch, length, keys = SHAPES[shape]
    q, k, v, g = draw(batch, length, keys)
    mask = MASKS[mask](batch, keys)

    def run(function, **options):
        def total(q, k, v):
            out, lse = function(q, k, v, mask=mask, scale=0.3, **options)
            return jnp.sum(out * g) + jnp.sum(jnp.sin(lse)), (out, lse)

        return jax.jit(jax.grad(total, (0, 1, 2), has_aux=True))(q, k, v)

    truth = run(reference)
    ours = run(chunked, query_chunk=16, key_chunk=16)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(truth), strict=True):
        assert error(a, b) < 1e-6


def test_chunked_equals_reference_in_the_gradient_of_weights():
    q, k, v, g = draw(*SHAPES["ragged"])
    weights = _weights(2, 53)

    def run(function, **options):
        def total(weights):
            mask = Mask(kv_weight=weights, causal_block=20)
            return jnp.sum(function(q, k, v, mask=mask, scale=0.3, **options)[0] * g)

        return jax.jit(jax.grad(total))(weights)

    assert error(run(chunked, query_chunk=8, key_chunk=16), run(reference)) < 1e-6


@pytest.mark.parametrize("impl", ["reference", "chunked"])
def test_weight_counts_copies(impl):
    q, k, v, _ = draw(1, 4, 3)
    weight = jnp.asarray([[1.0, 3.0, 0.0]])
    copies = [jnp.concatenate([x[:, :1]] + [x[:, 1:2]] * 3, axis=1) for x in (k, v)]
    ours = attention(q, k, v, mask=Mask(kv_weight=weight), impl=impl)
    assert error(ours, attention(q, *copies, impl="reference")) < 1e-6


@pytest.mark.parametrize("impl", ["reference", "chunked"])
def test_rows_without_keys_are_zero_and_have_no_gradient(impl):
    q, k, v, _ = draw(2, 4, 3)
    mask = Mask(kv_length=jnp.asarray([0, 3]))

    def run(q, k, v):
        out = attention(q, k, v, mask=mask, impl=impl)
        return jnp.sum(jnp.sin(out)), out

    grads, out = jax.grad(run, (0, 1, 2), has_aux=True)(q, k, v)
    assert not np.any(out[0]) and np.all(np.isfinite(out))
    assert all(not np.any(x[0]) and np.all(np.isfinite(x)) for x in grads)


@pytest.mark.parametrize("impl", ["reference", "chunked"])
def test_bfloat16_within_two_percent(impl):
    q, k, v, _ = draw(2, 37, 53, width=32)
    low = attention(*(x.astype(jnp.bfloat16) for x in (q, k, v)), impl=impl)
    assert low.dtype == jnp.bfloat16
    assert error(low.astype(jnp.float32), attention(q, k, v, impl="reference")) < 2e-2


def test_no_square_array_in_the_chunked_gradient():
    q, k, v, _ = draw(1, 1024, 1024, heads=1)

    def total(q, k, v):
        causal = Mask(causal_block=96)
        return jnp.sum(chunked(q, k, v, mask=causal, scale=1.0, query_chunk=64, key_chunk=128)[0])

    compiled = jax.jit(jax.grad(total, (0, 1, 2))).lower(q, k, v).compile()
    square = 4 * 1024 * 1024
    assert compiled.memory_analysis().temp_size_in_bytes < square / 2


def test_choice_by_size_is_logged_once(monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(api, "LARGE", 16 * 16)
    api._log_once.cache_clear()
    for length in (8, 8, 16):
        q, k, v, _ = draw(1, length, 16)
        assert error(attention(q, k, v), attention(q, k, v, impl="reference")) < 1e-6
    chosen = [record.args[0] for record in caplog.records]
    assert chosen == ["reference", "chunked"]


def test_unknown_implementation():
    q, k, v, _ = draw(1, 4, 4)
    with pytest.raises(UserError, match="did you mean 'chunked'"):
        attention(q, k, v, impl="chunk")
