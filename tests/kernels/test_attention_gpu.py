"""Attention for NVIDIA GPUs. Without one: cuDNN's arguments, the kernels' tiles and lowering, their
numbers where jax has an interpreter of them (0.11). With one: everything against reference.
"""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.experimental.pallas import mosaic_gpu as plgpu

from skyreels_jax.kernels.attention import MASKED, Attention, Mask, attention, attention_lse
from skyreels_jax.kernels.attention.api import choose
from skyreels_jax.kernels.attention.cudnn import cudnn
from skyreels_jax.kernels.attention.gpu.parts import Sizes, key_steps, query_steps
from skyreels_jax.kernels.attention.pallas_gpu import Tiles, Tuning, pallas_gpu
from skyreels_jax.kernels.attention.reference import reference
from skyreels_jax.nn.stack import REMAT, UNROLLED, scan, stack
from skyreels_jax.parallel.context import ContextAttention
from skyreels_jax.parallel.mesh import MeshConfig, make_mesh

MASKS = {
    "none": lambda b, s: None,
    "causal": lambda b, s: Mask(causal_block=72),
    "lengths": lambda b, s: Mask(kv_length=jnp.asarray([0, s - 70, s])[-b:]),
    "weights": lambda b, s: Mask(
        kv_weight=jnp.asarray(np.random.default_rng(1).integers(0, 4, (b, s)), jnp.float32)
    ),
    # Keys of the first block count nothing: its queries see none, in tiles that others see.
    "causal, empty": lambda b, s: Mask(
        causal_block=72, kv_weight=jnp.asarray(np.arange(s) >= 72, jnp.float32)[None].repeat(b, 0)
    ),
}
needs_gpu = pytest.mark.skipif(jax.default_backend() != "gpu", reason="needs a GPU")


def draw(batch, length, keys, *, heads=1, width=64, dtype=jnp.bfloat16):
    rng = np.random.default_rng(0)
    shapes = [(batch, n, heads, width) for n in (length, keys, keys, length)]
    return [jnp.asarray(rng.standard_normal(s), dtype) for s in shapes]


def value_and_grads(run, q, k, v, g, *, lse: bool, scale=0.1):
    """Returns gradients through out and (lse) the softmax's sum, and those two."""

    def total(q, k, v):
        out, log_sum = run(q, k, v, scale=scale)
        value = jnp.sum(out.astype(jnp.float32) * g.astype(jnp.float32))
        if not lse:
            return value, (out,)
        return value + jnp.sum(jnp.sin(log_sum)), (out, log_sum)

    return jax.tree.leaves(jax.jit(jax.grad(total, (0, 1, 2), has_aux=True))(q, k, v))


def check(run, q, k, v, g, *, mask, lse: bool, most: float):
    def truth(q, k, v, *, scale):
        return reference(*(x.astype(jnp.float32) for x in (q, k, v)), mask=mask, scale=scale)

    ours = value_and_grads(lambda *a, **o: run(*a, mask=mask, **o), q, k, v, g, lse=lse)
    with jax.default_matmul_precision("highest"):
        expected = value_and_grads(truth, q, k, v, g, lse=lse)
    for a, b in zip(ours, expected, strict=True):
        a, b = (np.asarray(x, np.float64) for x in (a, b))
        assert np.all(np.isfinite(a))
        empty = b == np.float32(MASKED)  # sums of queries without keys
        np.testing.assert_array_equal(a[empty], b[empty])
        a, b = (np.where(empty, 0, x) for x in (a, b))
        assert np.linalg.norm(a - b) <= most * np.linalg.norm(b)


@pytest.fixture
def without_cudnn(monkeypatch):
    """jax.nn's plain implementation in the place of cuDNN: our side of the call is what counts."""
    real, seen = jax.nn.dot_product_attention, []

    def stand_in(*args, implementation, **options):
        seen.append((implementation, sorted(options)))
        return real(*args, implementation="xla", **options)

    monkeypatch.setattr(jax.nn, "dot_product_attention", stand_in)
    return seen


@pytest.mark.parametrize("mask", ["none", "lengths"])
def test_cudnn_is_given_what_reference_takes(without_cudnn, mask):
    arrays = draw(3, 40, 90, heads=2)
    check(cudnn, *arrays, mask=MASKS[mask](3, 90), lse=False, most=2e-2)
    assert without_cudnn[0] == ("cudnn", ["key_value_seq_lengths", "scale"])


@pytest.mark.parametrize(
    ("impl", "dtype", "width", "mask", "why"),
    [
        ("cudnn", jnp.float32, 64, "none", "bfloat16 and float16, not float32"),
        ("cudnn", jnp.bfloat16, 60, "none", "multiples of 8"),
        ("cudnn", jnp.bfloat16, 384, "none", "up to 128"),
        ("cudnn", jnp.bfloat16, 64, "weights", "neither weights"),
        ("cudnn", jnp.bfloat16, 64, "causal", "nor causal blocks"),
        ("pallas_gpu", jnp.bfloat16, 96, "none", "heads of 64 or 128"),
        ("pallas_gpu", jnp.float32, 64, "none", "not float32"),
        ("cudnn", "mixed", 64, "none", "one dtype, not of bfloat16, bfloat16, float16"),
        ("pallas_gpu", "mixed", 64, "none", "one dtype, not of bfloat16, bfloat16, float16"),
    ],
)
def test_refusals_say_why_and_nothing_else_is_tried(impl, dtype, width, mask, why):
    q, k, v, _ = draw(1, 8, 8, width=width, dtype=jnp.bfloat16 if dtype == "mixed" else dtype)
    v = v.astype(jnp.float16) if dtype == "mixed" else v
    with pytest.raises(NotImplementedError, match=f"{impl} attention takes .*{why}"):
        attention(q, k, v, mask=MASKS[mask](1, 8), impl=impl, platform="gpu")


@pytest.mark.parametrize("impl", ["cudnn", "pallas_gpu"])
def test_no_queries_and_no_keys_are_refused(impl):
    q, k, v, _ = draw(1, 8, 0)
    with pytest.raises(NotImplementedError, match="one query and one key or more, not 8 and 0"):
        attention(q, k, v, impl=impl, platform="gpu")


@pytest.mark.parametrize(
    ("impl", "found", "why"),
    [
        ("cudnn", "7.5", "capability 8.0 or more, not 7.5"),
        ("cudnn", "gfx90a", "capability 8.0 or more, not gfx90a"),
        ("pallas_gpu", "8.0", "capability 9.0 .Hopper., not 8.0"),
        ("pallas_gpu", "10.0", "capability 9.0 .Hopper., not 10.0"),
    ],
)
def test_gpus_that_lack_what_is_used_are_refused(monkeypatch, impl, found, why):
    device = types.SimpleNamespace(platform="gpu", compute_capability=found)
    monkeypatch.setattr(jax, "devices", lambda: [device])
    q, k, v, _ = draw(1, 8, 8)
    with pytest.raises(NotImplementedError, match=why):
        attention(q, k, v, impl=impl, platform="gpu")
    if impl == "cudnn":
        big = jnp.zeros((1, 1024, 1, 64), jnp.bfloat16)
        assert choose(big, big, big, mask=None, platform="gpu", lse=False) == "chunked"


@pytest.mark.parametrize("scale", [0.0, -1.0, 1e-9, float("nan")])
def test_scales_that_masks_do_not_survive_are_refused(scale):
    q, k, v, _ = draw(1, 8, 8)
    with pytest.raises(NotImplementedError, match="a scale of 1e-07 or more"):
        attention(q, k, v, impl="pallas_gpu", platform="gpu", scale=scale)


@pytest.mark.parametrize(
    "wrong", [{"consumers": 4}, {"columns": 0}, {"columns": 96}, {"columns": 320}, {"stages": 1}]
)
def test_tiles_that_the_hardware_has_not(wrong):
    with pytest.raises(ValueError, match="columns of 64, 128, 192, 256, 2 stages or more"):
        Tiles(**wrong)


def test_cudnn_has_no_sum_of_the_softmax(without_cudnn):
    q, k, v, _ = draw(1, 8, 8)
    with pytest.raises(NotImplementedError, match="does not give the softmax's sum"):
        attention_lse(q, k, v, impl="cudnn", platform="gpu")


@pytest.mark.parametrize("platform", ["gpu", "cuda"])
def test_choice_on_gpus(platform):
    big = jnp.zeros((1, 1024, 1, 64), jnp.bfloat16)
    single, small = big.astype(jnp.float32), big[:, :64]

    def chosen(x, v=None, *, mask=None, lse=False):
        return choose(x, x, x if v is None else v, mask=mask, platform=platform, lse=lse)

    lengths = Mask(kv_length=jnp.asarray([70]))
    assert chosen(big) == chosen(big, mask=lengths) == "cudnn"
    assert chosen(single) == chosen(big, lse=True) == "chunked"
    assert chosen(big, mask=Mask(causal_block=128)) == "chunked"
    assert chosen(big, single) == "chunked"  # of several dtypes
    assert chosen(small) == "reference"


def sizes(**changes) -> Sizes:
    base = {"consumers": 2, "rows": 128, "columns": 64, "stages": 2, "scale": 1.0, "hidden": MASKED}
    flags = {"causal": None, "weighted": False, "cut": True, "by_memory": False}
    return Sizes(**(base | flags | changes))


@pytest.mark.parametrize("length", [0, 1, 64, 300, 512])
@pytest.mark.parametrize("causal", [None, 1, 72, 128, 200])
def test_steps_cover_what_is_seen_and_no_more(causal, length):
    """Counted on the whole matrix of which query sees which key, 512 x 512."""
    places = np.arange(512)
    seen = np.broadcast_to(places[None] < length, (512, 512))
    if causal is not None:
        seen = seen & (places[None] // causal <= places[:, None] // causal)
    own = sizes(causal=causal)
    for tile in range(512 // own.rows):
        rows = seen[tile * own.rows : (tile + 1) * own.rows].reshape(own.rows, -1, own.columns)
        full, some = map(int, key_steps(own, jnp.int32(tile), jnp.int32(length)))
        assert some == max(1, np.any(rows, axis=(0, 2)).sum())
        assert full == np.all(rows, axis=(0, 2)).sum()
        keys = seen[:, tile * own.rows : (tile + 1) * own.rows].reshape(-1, own.columns, own.rows)
        start, whole = map(int, query_steps(own, jnp.int32(tile), 512 // own.columns))
        if length == 512:
            assert start == np.argmax(np.any(keys, axis=(1, 2)))
            every = np.all(keys, axis=(1, 2))
            assert whole == (np.argmax(every) if every.any() else len(every))


def lowered(run, *args):
    """Returns the program for CUDA, which needs no GPU: Mosaic lowers and verifies the kernels."""
    return jax.jit(run).trace(*args).lower(lowering_platforms=("cuda",)).as_text()


@pytest.mark.parametrize(
    ("width", "mask", "tuning"),
    [
        (128, "none", Tuning()),
        (128, "causal", Tuning(forward=Tiles(consumers=3, columns=64, stages=3))),
        (64, "lengths", Tuning()),
    ],
)
def test_kernels_lower_for_cuda(width, mask, tuning):
    q, k, v, g = draw(2, 130, 200, heads=2, width=width, dtype=jnp.float16)

    def total(q, k, v):
        out, lse = pallas_gpu(q, k, v, mask=MASKS[mask](2, 200), scale=0.1, tuning=tuning)
        return jnp.sum(out * g).astype(jnp.float32) + jnp.sum(lse)

    text = lowered(jax.grad(total, (0, 1, 2)), q, k, v)
    assert text.count("custom_call @mosaic_gpu") == 3  # forward, queries, keys and values
    assert "200x200" not in text and "256x256" not in text  # no L x S array


def test_lowers_over_devices():
    q = jnp.zeros((1, 2, 64, 4, 64), jnp.bfloat16)
    for kind in ("ring", "ulysses"):
        over = ContextAttention(
            mesh=make_mesh(MeshConfig(context=2, tensor=2, data=1), devices=jax.devices()[:4]),
            kind=kind,
            attention=Attention("cuda", "pallas_gpu"),
        )

        def total(x, over=over):
            return over(x, x, x, mask=Mask(causal_block=64)).astype(jnp.float32).sum()

        # Forward (in a ring of its own part, and of those that pass), queries, keys and values.
        kernels = {"ring": 4, "ulysses": 3}[kind]
        assert lowered(jax.grad(total), q).count("custom_call @mosaic_gpu") == kernels


class Scaled(nnx.Module):
    def __init__(self, rngs: nnx.Rngs):
        self.scale = nnx.Param(jax.random.normal(rngs.params(), (64,), jnp.bfloat16))

    def __call__(self, x):
        q = x * self.scale[...][None, None, None]
        return pallas_gpu(q, q, q, scale=0.1)[0]


@pytest.mark.parametrize("remat", REMAT)
def test_attention_runs_once_where_it_is_kept(remat):
    """Counted: the forward kernel in a train step of a stack that is a loop."""
    layers = stack(Scaled, UNROLLED + 1, rngs=nnx.Rngs(0))

    def total(x):
        return jnp.sum(scan(layers, x, remat=remat).astype(jnp.float32))

    text = str(jax.make_jaxpr(jax.grad(total))(jnp.zeros((1, 128, 1, 64), jnp.bfloat16)))
    again = 0 if remat in ("none", "dots", "attention") else 1
    assert text.count("custom_vmap_call[") == 3 + again  # forward, queries, keys and values


INTERPRETER = getattr(plgpu, "InterpretGPUParams", None)


@pytest.mark.slow
@pytest.mark.skipif(INTERPRETER is None, reason="this jax has no interpreter of these kernels")
@pytest.mark.parametrize("mask", list(MASKS))
def test_interpreted_kernels_equal_reference(mask):
    """On CPU with jax's simulation of threads, barriers and copies, races looked for."""
    batch = 2 if mask in ("lengths", "weights") else 1
    interpreted(*draw(batch, 200, 150), mask=MASKS[mask](batch, 150))


@pytest.mark.slow
@pytest.mark.skipif(INTERPRETER is None, reason="this jax has no interpreter of these kernels")
@pytest.mark.parametrize("causal", [None, 72])
def test_interpreted_kernels_without_keys_in_a_padded_tile(causal):
    """Hidden keys, padding and later blocks in one tile; no key is left."""
    mask = Mask(kv_length=jnp.asarray([0]), causal_block=causal)
    interpreted(*draw(1, 130, 100), mask=mask)


def interpreted(*arrays, mask):
    run = lambda *a, **o: pallas_gpu(*a, **o, tuning=Tuning(by_memory=True))  # noqa: E731
    with plgpu.force_gpu_interpret_mode(INTERPRETER(detect_races=True)):
        check(run, *arrays, mask=mask, lse=True, most=1e-2)


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("mask", list(MASKS))
@pytest.mark.parametrize("width", [64, 128])
@pytest.mark.parametrize("impl", [cudnn, pallas_gpu])
def test_on_a_gpu(impl, width, mask):
    arrays = draw(3, 1000, 1100, heads=2, width=width)
    if impl is cudnn and mask not in ("none", "lengths"):
        pytest.skip("cudnn refuses it")
    check(impl, *arrays, mask=MASKS[mask](3, 1100), lse=impl is not cudnn, most=2e-2)


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("consumers", [1, 2, 3])
def test_tiles_on_a_gpu(consumers):
    tiles = Tiles(consumers=consumers, columns=64, stages=3)
    tuning = Tuning(forward=tiles, queries=tiles, keys=tiles)
    arrays = draw(1, 700, 900, heads=2, width=64)
    mask = Mask(causal_block=200)
    run = lambda *a, **o: pallas_gpu(*a, **o, tuning=tuning)  # noqa: E731
    check(run, *arrays, mask=mask, lse=True, most=2e-2)
