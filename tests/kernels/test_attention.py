"""Attention: the reference against torch, every other implementation against the reference."""

import functools
import logging
import re

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
import torch

from skyreels_jax.core.errors import UserError
from skyreels_jax.kernels.attention import MASKED, Mask, api, attention, attention_lse
from skyreels_jax.kernels.attention.chunked import chunked
from skyreels_jax.kernels.attention.pallas_tpu import pallas_tpu, pallas_tpu_gradients
from skyreels_jax.kernels.attention.reference import reference

SHAPES = {"even": (2, 32, 32), "ragged": (2, 37, 53), "one query": (1, 1, 19)}  # B, L, S
MASKS = {
    "none": lambda b, s: None,
    "weights": lambda b, s: Mask(kv_weight=_weights(b, s)),
    "lengths": lambda b, s: Mask(kv_length=jnp.asarray([s // 2, s][:b])),
    "both": lambda b, s: Mask(kv_weight=_weights(b, s), kv_length=jnp.asarray([s - 3, 5][:b])),
    "causal": lambda b, s: Mask(causal_block=5),
    "causal, empty": lambda b, s: Mask(causal_block=5, kv_weight=_weights(b, s).at[:, :15].set(0)),
    "empty": lambda b, s: Mask(kv_length=jnp.asarray([0, s])[:b]),
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
        np.testing.assert_array_equal(a == MASKED, b == MASKED)  # sums of queries without keys
        assert error(*(jnp.where(b == MASKED, 0.0, x) for x in (a, b))) < 1e-6


# Implementations that run on a CPU, with shapes that all of them take.
ALL = {
    "reference": reference,
    "chunked": functools.partial(chunked, query_chunk=16, key_chunk=16),
    "pallas_tpu": functools.partial(pallas_tpu, interpret=True),
}


@pytest.mark.parametrize("impl", ALL)
def test_weights_of_keys_are_counts_without_a_gradient(impl):
    q, k, v, _ = draw(1, 9, 11, heads=1, width=64)

    def total(weights):
        out, lse = ALL[impl](q, k, v, mask=Mask(kv_weight=weights), scale=0.3)
        return jnp.sum(jnp.square(out)) + jnp.sum(lse)

    assert not np.any(jax.grad(total)(_weights(1, 11)))


@pytest.mark.parametrize("impl", ALL)
@pytest.mark.parametrize("hide", ["length", "weights", "causal weights"])
def test_queries_without_keys(impl, hide):
    """The output is 0, the sum's logarithm `MASKED`, and no gradient comes through either."""
    q, k, v, g = draw(2, 9, 11, heads=1, width=64)
    # [clip, query]: all of the first clip, or of its first causal block.
    empty = np.zeros((2, 9), bool)
    empty[0, : 4 if hide == "causal weights" else None] = True
    hidden = jnp.ones((2, 11)).at[0, : 4 if hide == "causal weights" else None].set(0)
    mask = {
        "length": Mask(kv_length=jnp.asarray([0, 11])),
        "weights": Mask(kv_weight=hidden),
        "causal weights": Mask(kv_weight=hidden, causal_block=4),
    }[hide]

    def run(q, k, v):
        return ALL[impl](q, k, v, mask=mask, scale=0.3)

    (out, lse), back = jax.vjp(run, q, k, v)
    np.testing.assert_array_equal(np.asarray(lse[..., 0]) == np.float32(MASKED), empty)
    assert not np.any(out[empty]) and np.all(np.isfinite(out))
    grads = back((g * jnp.asarray(empty)[..., None, None], 3.0 * jnp.asarray(empty)[..., None]))
    assert all(not np.any(x) for x in grads)  # NaN is something
    grads = back((g, jnp.ones_like(lse)))
    assert all(np.all(np.isfinite(x)) for x in grads) and not np.any(grads[0][empty])


GRADIENTS = api.GRADIENTS | {"pallas_tpu": functools.partial(pallas_tpu_gradients, interpret=True)}


@pytest.mark.parametrize("impl", ALL)
def test_gradients_of_parts_of_the_keys_add_up(impl):
    """Of three clips: one has keys in both parts, one in the second alone, one none."""
    q, k, v, g = draw(3, 9, 24, heads=2, width=64)
    weights = _weights(3, 24).at[1, :11].set(0).at[2].set(0)

    def run(q, k, v):
        return reference(q, k, v, mask=Mask(kv_weight=weights), scale=0.3)

    (out, lse), back = jax.vjp(run, q, k, v)
    expected = back((g, jnp.zeros_like(lse)))
    dq, dk, dv = zip(
        *(
            GRADIENTS[impl](
                *(q, k[:, part], v[:, part], out, lse, g),
                mask=Mask(kv_weight=weights[:, part]),
                scale=0.3,
            )
            for part in (slice(11), slice(11, 24))
        ),
        strict=True,
    )
    for ours, truth in zip(
        (sum(dq), jnp.concatenate(dk, 1), jnp.concatenate(dv, 1)), expected, strict=True
    ):
        assert error(ours, truth) < 5e-6


@pytest.mark.parametrize("impl", ["reference", "chunked"])
def test_float32_is_multiplied_as_such(impl):
    """On accelerators products of float32 are rounded unless they ask, forward and backward."""
    q, k, v, g = draw(1, 9, 11)

    def total(q, k, v):
        return jnp.sum(ALL[impl](q, k, v, scale=0.3)[0] * g)

    with jax.default_matmul_precision("default"):
        text = str(jax.make_jaxpr(jax.grad(total, (0, 1, 2)))(q, k, v))
    told = re.findall(r" precision=\(?([\w.]+)", text)
    assert len(told) == text.count("dot_general[") >= 6 and set(told) == {"Precision.HIGHEST"}


def test_several_dtypes_are_multiplied_in_the_widest():
    q, k, v, g = draw(2, 37, 53, width=32)
    low, g = v.astype(jnp.bfloat16), g.astype(jnp.float32)

    def run(impl, q, k, v):
        def total(q, k, v):
            out = attention(q, k, v, impl=impl)
            return jnp.sum(out * g), out

        return jax.tree.leaves(jax.grad(total, (0, 1, 2), has_aux=True)(q, k, v))

    ours, truth = run("chunked", q, k, low), run("reference", q, k, low)
    assert [x.dtype for x in ours] == [x.dtype for x in (q, k, low, q)]
    wide = [x for x in ours if x.dtype == jnp.float32]
    assert max(map(error, wide, (x for x in truth if x.dtype == jnp.float32))) < 1e-6
    q, k, v, _ = draw(1, 8, 8, width=64)
    with pytest.raises(NotImplementedError, match="one dtype, not of float32, float32, bfloat16"):
        attention(q, k, v.astype(jnp.bfloat16), impl="pallas_tpu", platform="tpu")


def test_no_keys_at_all_and_no_queries():
    q, k, v, _ = draw(2, 4, 0)
    out, lse = attention_lse(q, k, v)
    assert not np.any(out) and np.all(np.asarray(lse) == np.float32(MASKED))
    assert not np.any(jax.grad(lambda q: jnp.sum(attention_lse(q, k, v)[1]))(q))
    assert attention(k, q, q).shape == (2, 0, 3, 8)
    for impl in ("chunked", "pallas_tpu"):
        wide = draw(2, 4, 0, width=64)[:3]
        with pytest.raises(NotImplementedError, match="one query and one key or more, not 4 and 0"):
            attention(*wide, impl=impl, platform="tpu")


@pytest.mark.parametrize(
    ("impl", "legal"), [("pallas_tpu", "tpu"), ("cudnn", "gpu"), ("pallas_gpu", "gpu")]
)
def test_kernels_are_refused_on_other_platforms(impl, legal):
    q, k, v, _ = draw(1, 4, 4)
    with pytest.raises(NotImplementedError, match=f"{impl} attention is for {legal}, not for cpu"):
        attention(q, k, v, impl=impl)


@pytest.fixture
def unchecked():
    """Shapes are checked as outside of tests: by us alone."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


def test_what_does_not_belong_together_is_refused(unchecked):
    q, k, v, _ = draw(2, 4, 6)
    with pytest.raises(UserError, match=r"not q .2, 4, 3, 8., k .2, 6, 2, 8."):
        attention(q, k[:, :, :2], v[:, :, :2])
    with pytest.raises(UserError, match=r"kv_weight of the mask is .2, 6. .* not .2, 5."):
        attention(q, k, v, mask=Mask(kv_weight=jnp.ones((2, 5))))
    with pytest.raises(UserError, match=r"kv_length of the mask is .2. .* not .1."):
        attention(q, k, v, mask=Mask(kv_length=jnp.ones(1, int)))
    with pytest.raises(UserError, match="1 token or more, not 0"):
        Mask(causal_block=0)
    with pytest.raises(UserError, match="1 token or more, not 0"):
        chunked(q, k, v, scale=1.0, query_chunk=0)


@pytest.mark.parametrize("impl", ["reference", "chunked"])
def test_weight_counts_copies(impl):
    q, k, v, _ = draw(1, 4, 3)
    weight = jnp.asarray([[1.0, 3.0, 0.0]])
    copies = [jnp.concatenate([x[:, :1]] + [x[:, 1:2]] * 3, axis=1) for x in (k, v)]
    ours = attention(q, k, v, mask=Mask(kv_weight=weight), impl=impl)
    assert error(ours, attention(q, *copies, impl="reference")) < 1e-6


@pytest.mark.parametrize("impl", ["reference", "chunked"])
def test_bfloat16_within_two_percent(impl):
    q, k, v, _ = draw(2, 37, 53, width=32)
    low = attention(*(x.astype(jnp.bfloat16) for x in (q, k, v)), impl=impl)
    assert low.dtype == jnp.bfloat16
    assert error(low.astype(jnp.float32), attention(q, k, v, impl="reference")) < 2e-2


@pytest.mark.parametrize("length", [64, 600])  # a chunk, and more
def test_bfloat16_gradients_within_two_percent(length):
    arrays = draw(1, length, length, heads=1, width=32)[:3]

    def gradients(impl, *arrays):
        def total(*arrays):
            return jnp.sum(attention(*arrays, impl=impl).astype(jnp.float32) ** 2)

        return jax.jit(jax.grad(total, (0, 1, 2)))(*arrays)

    low = gradients("chunked", *(x.astype(jnp.bfloat16) for x in arrays))
    for ours, truth in zip(low, gradients("reference", *arrays), strict=True):
        assert ours.dtype == jnp.bfloat16 and error(ours.astype(jnp.float32), truth) < 2e-2


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


@pytest.mark.parametrize(("platform", "chunk"), [("cpu", 512), ("cuda", 4096), ("tpu", 4096)])
def test_chunks_of_queries_are_wide_where_no_cache_holds_them(platform, chunk):
    q, k = (jax.ShapeDtypeStruct((1, n, 2, 16), jnp.float32) for n in (8192, 64))
    attend = jax.jit(jax.grad(lambda q, k: jnp.sum(chunked(q, k, k, scale=1.0)[0])))
    text = attend.trace(q, k).lower(lowering_platforms=(platform,)).as_text()
    logits = {int(n) for n in re.findall(r"tensor<(?:1x2x)?(\d+)x64xf32>", text)}
    assert max(logits) == chunk
