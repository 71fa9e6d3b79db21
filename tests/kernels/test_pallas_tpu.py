"""Our kernels for TPUs, interpreted on a CPU, against the reference."""

import dataclasses
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.pallas import tpu as pltpu

from skyreels_jax.kernels.attention import MASKED, Mask, attention
from skyreels_jax.kernels.attention.api import choose
from skyreels_jax.kernels.attention.pallas_tpu import pallas_tpu
from skyreels_jax.kernels.attention.reference import reference
from skyreels_jax.kernels.attention.tpu import tiles
from skyreels_jax.kernels.attention.tpu.common import LOG2_E, Plan
from skyreels_jax.kernels.attention.tpu.forward import BOUND
from skyreels_jax.kernels.attention.tpu.tiles import FLOAT32, Passes, Tiles

PASSES = tiles.passes  # as it is outside of these tests
WIDE = Tiles(q=256, kv=256, part_q=256, part_kv=128, ahead=1)
TALL = Tiles(q=256, kv=256, part_q=128, part_kv=256, ahead=1)


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch):
    """Several tiles, and several parts of each, of few tokens."""
    small = Passes(forward=WIDE, dq=TALL, dkv=WIDE)
    monkeypatch.setattr(tiles, "passes", lambda dtype: small)


def weights(batch: int, keys: int) -> jax.Array:
    drawn = np.random.default_rng(1).uniform(0, 3, (batch, keys))
    drawn[:, ::4] = 0
    drawn[:, 1] = 20
    return jnp.asarray(drawn, jnp.float32)


MASKS = {
    "none": lambda b, s: None,
    "causal": lambda b, s: Mask(causal_block=70),
    "causal, lengths": lambda b, s: Mask(causal_block=300, kv_length=jnp.asarray([0, s - 50][:b])),
    "weights": lambda b, s: Mask(kv_weight=weights(b, s)),
    "weights, lengths": lambda b, s: Mask(
        kv_weight=weights(b, s), kv_length=jnp.asarray([s - 30, s, 0][:b])
    ),
    "causal, empty": lambda b, s: Mask(causal_block=70, kv_weight=weights(b, s).at[:, :140].set(0)),
}


def draw(batch, length, keys, width, dtype, *, gain=1.0, heads=1):
    rng = np.random.default_rng(0)
    shapes = [(batch, n, heads, width) for n in (length, keys, keys, length)]
    q, k, v, g = (jnp.asarray(rng.standard_normal(s), jnp.float32) for s in shapes)
    return [x.astype(dtype) for x in (q * gain, k * gain, v, g)]


def errors(q, k, v, g, *, mask, interpret=True):
    """Returns the errors of the output, the log-sum-exp and the gradients of both, relative."""

    def run(function, dtype, **options):
        def total(q, k, v):
            out, lse = function(q, k, v, mask=mask, scale=q.shape[-1] ** -0.5, **options)
            out = out.astype(jnp.float32)
            return jnp.sum(out * g) + jnp.sum(jnp.sin(lse)), (out, lse)

        given = (x.astype(dtype) for x in (q, k, v))
        found = jax.jit(jax.grad(total, (0, 1, 2), has_aux=True))(*given)
        return [np.asarray(x, np.float32) for x in jax.tree.leaves(found)]

    ours, truth = run(pallas_tpu, q.dtype, interpret=interpret), run(reference, jnp.float32)
    assert all(np.all(np.isfinite(x)) for x in ours)
    found = []
    for a, b in zip(ours, truth, strict=True):
        np.testing.assert_array_equal(a == MASKED, b == MASKED)  # sums of queries without keys
        a, b = (np.where(b == MASKED, 0.0, x) for x in (a, b))
        found.append(np.max(abs(a - b)) / np.max(abs(b)))
    return found


@pytest.mark.parametrize(
    ("mask", "shape", "width"),
    [
        ("none", (1, 300, 200), 64),
        ("causal", (1, 600, 600), 128),
        ("causal, lengths", (2, 300, 600), 64),
        ("weights", (1, 200, 300), 128),
        ("causal, empty", (1, 300, 300), 64),
    ],
)
def test_equals_reference_forward_and_backward(mask, shape, width):
    given = draw(*shape, width, jnp.float32)
    assert np.max(errors(*given, mask=MASKS[mask](shape[0], shape[2]))) < 1e-5


def test_scores_too_large_to_go_without_a_maximum():
    given = draw(1, 256, 512, 64, jnp.float32, gain=8.0)
    assert np.max(errors(*given, mask=None)) < 1e-4


@pytest.mark.parametrize("weighted", [False, True])
def test_rows_heads_and_tiles_that_differ(weighted):
    """Full, shorter and empty clips at once, and scores with and without a bound in each."""
    q, *others = draw(3, 300, 400, 64, jnp.float32, heads=2)
    large = np.ones((3, 300, 2, 1), np.float32)
    large[0, :, 0] = large[1, 256:, 1] = large[2] = 16.0
    given = q * large, *others
    tiles_q = np.pad(given[0], [(0, 0), (0, 212), (0, 0), (0, 0)]).reshape(3, 2, 256, 2, 64)
    longest = np.linalg.norm(tiles_q, axis=-1).max(2), np.linalg.norm(given[1], axis=-1).max(1)
    bounded = longest[0] * longest[1][:, None] * (64**-0.5 * LOG2_E) <= BOUND
    assert [row.tolist() for row in bounded[:2]] == [
        [[False, True], [False, True]],
        [[True, True], [True, False]],
    ]
    mask = Mask(
        kv_length=jnp.asarray([400, 140, 0]), kv_weight=weights(3, 400) if weighted else None
    )
    assert np.max(errors(*given, mask=mask)) < 1e-4


def test_bfloat16():
    given = draw(1, 300, 300, 128, jnp.bfloat16)
    assert np.max(errors(*given, mask=Mask(causal_block=100))) < 1e-2


@pytest.mark.parametrize(
    ("dtype", "mask", "bound"),
    [("float32", "causal", 1e-5), ("bfloat16", "weights, lengths", 1e-2)],
)
def test_no_races(dtype, mask, bound, capfd):
    simulated = pltpu.InterpretParams(detect_races=True, num_cores_or_threads=2)
    given = draw(1, 200 if dtype == "float32" else 100, 300, 64, dtype)
    assert np.max(errors(*given, mask=MASKS[mask](1, 300), interpret=simulated)) < bound
    assert "RACE" not in "".join(capfd.readouterr())


def test_what_is_refused():
    q, k, v, _ = draw(1, 8, 8, 32, jnp.float32)
    with pytest.raises(NotImplementedError, match="heads of 64 or 128, not 32"):
        attention(q, k, v, impl="pallas_tpu", platform="tpu")
    q, k, v, _ = draw(1, 8, 8, 64, jnp.float16)
    with pytest.raises(NotImplementedError, match="bfloat16 and float32, not float16"):
        attention(q, k, v, impl="pallas_tpu", platform="tpu")


@pytest.mark.parametrize(
    ("kind", "impl"),
    [("TPU v4", "chunked"), ("TPU v3", "chunked"), ("TPU v5p", "pallas_tpu")],
)
def test_tpus_that_there_are_no_tiles_for(monkeypatch, kind, impl):
    device = types.SimpleNamespace(platform="tpu", device_kind=kind)
    monkeypatch.setattr(jax, "devices", lambda: [device])
    x = jnp.zeros((1, 1024, 1, 64), jnp.float32)
    assert choose(x, x, x, mask=None, platform="tpu", lse=True) == impl
    if impl != "pallas_tpu":
        with pytest.raises(NotImplementedError, match=f"tiles for v5e, .*tpu7x, not for {kind}"):
            attention(x, x, x, impl="pallas_tpu", platform="tpu")


def test_several_dtypes_are_not_for_it():
    x = jnp.zeros((1, 1024, 1, 64), jnp.bfloat16)
    single = x.astype(jnp.float32)
    assert choose(x, x, x, mask=None, platform="tpu", lse=True) == "pallas_tpu"
    assert choose(single, x, x, mask=None, platform="tpu", lse=True) == "chunked"


def test_the_kinds_of_tpus_have_their_tiles(monkeypatch):
    for kind, chip in tiles.KINDS.items():
        device = types.SimpleNamespace(platform="tpu", device_kind=kind)
        monkeypatch.setattr(jax, "devices", lambda device=device: [device])
        assert PASSES(jnp.dtype("bfloat16")) is tiles.TABLE[chip]


@pytest.mark.parametrize("table", [*tiles.TABLE.values(), FLOAT32])
@pytest.mark.parametrize(
    ("queries", "keys"),
    [(51_000, 51_000), (111_600, 111_600), (51_000, 512), (100, 512), (1100, 2100), (7000, 7000)],
)
def test_tiles_divide_what_is_padded(table, queries, keys):
    fitted, *whole = table.fitted(queries, keys)
    for each in fitted:
        assert whole[0] % each.q == whole[1] % each.kv == 0
        assert each.q % each.part_q == each.kv % each.part_kv == 0
        assert each.part_q % 128 == each.part_kv % 128 == 0
    for length, padded in zip((queries, keys), whole, strict=True):
        # Of few tokens no tile is so large that much of the last one is padding.
        largest = 4096 if length >= tiles.LONG else 2048
        assert 0 <= padded - length < min(largest, -(-length // 128) * 128)


def test_tiles_of_padding_alone_are_skipped():
    """Where one pass has larger tiles than another, that has queries and keys of none."""
    small = Passes(forward=dataclasses.replace(WIDE, q=128, kv=128), dq=TALL, dkv=WIDE)
    fitted, *whole = small.fitted(300, 300)
    assert whole == [512, 512] and (fitted.forward.q, fitted.forward.kv) == (128, 128)
    plan = Plan(
        queries=300, keys=300, block=None, biased=False, masked=True, scale=1.0, passes=fitted
    )
    some = [[bool(plan.some(fitted.forward, i, j, 300)) for j in range(4)] for i in range(4)]
    assert some == [[True, True, True, False]] * 3 + [[False] * 4]
