"""The conversion engine: both directions, stacked and list indices, total accounting."""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from skyreels_jax.core.errors import UserError
from skyreels_jax.core.tree import named_leaves
from skyreels_jax.testing.stored import DictSource, export_tree, source_shapes, transcode
from skyreels_jax.weights import convert
from skyreels_jax.weights.convert import fill, load_tree, match
from skyreels_jax.weights.table import Rule, ignored
from skyreels_jax.weights.transforms import CONV3D, LINEAR, Transform, squeeze


def shaped(*shape):
    return jax.ShapeDtypeStruct(shape, np.float32)


ABSTRACT = {
    "blocks": {"q": {"kernel": shaped(3, 4, 6), "bias": shaped(3, 6)}},
    "up": {i: {"res": {j: {"kernel": shaped(1, 3, 3, 2, 5)} for j in range(2)}} for i in range(2)},
    "gamma": shaped(7),
}
TABLE = (
    Rule("blocks.{i}.to_q.weight", "blocks/q/kernel", LINEAR),
    Rule("blocks.{i}.to_q.bias", "blocks/q/bias"),
    Rule("up.{i}.{j}.weight", "up/{i}/res/{j}/kernel", CONV3D),
    Rule("norm.gamma", "gamma", squeeze(4)),
    *ignored("step.{i}"),
)
OTHER = (
    Rule("q{i}.w", "blocks/q/kernel"),
    Rule("q{i}.b", "blocks/q/bias"),
    Rule("up_{i}_{j}", "up/{i}/res/{j}/kernel"),
    Rule("gamma", "gamma", squeeze(2)),
)


def random_tree(dtype=np.float32):
    random = np.random.default_rng(0)
    return jax.tree.map(lambda s: random.normal(size=s.shape).astype(dtype), ABSTRACT)


def stored(**changes):
    arrays = dict(export_tree(TABLE, random_tree())) | changes
    return DictSource({k: v for k, v in arrays.items() if v is not None}, name="file")


def assert_same(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)
    assert jax.tree.map(lambda x: x.dtype, a) == jax.tree.map(lambda x: x.dtype, b)


def test_names_and_shapes():
    assert source_shapes(TABLE, ABSTRACT) == {
        **{f"blocks.{i}.to_q.weight": (6, 4) for i in range(3)},
        **{f"blocks.{i}.to_q.bias": (6,) for i in range(3)},
        **{f"up.{i}.{j}.weight": (5, 2, 1, 3, 3) for i in range(2) for j in range(2)},
        "norm.gamma": (7, 1, 1, 1),
    }


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_export_and_load_are_inverse(dtype):
    tree = random_tree(dtype)
    arrays = dict(export_tree(TABLE, tree))
    np.testing.assert_array_equal(
        arrays["blocks.1.to_q.weight"], tree["blocks"]["q"]["kernel"][1].T
    )
    np.testing.assert_array_equal(
        arrays["up.1.0.weight"], tree["up"][1]["res"][0]["kernel"].transpose(4, 3, 0, 1, 2)
    )
    assert_same(load_tree(TABLE, DictSource(arrays), ABSTRACT), tree)


def test_transcode_goes_through_no_tree_and_back_bit_exactly():
    source = stored()
    other = dict(transcode(source, TABLE, OTHER, ABSTRACT))
    assert other.keys() == source_shapes(OTHER, ABSTRACT).keys()
    back = dict(transcode(DictSource(other), OTHER, TABLE, ABSTRACT))
    for name in source.keys():  # noqa: SIM118
        np.testing.assert_array_equal(back.pop(name), source.read(name))
    assert not back


def test_dtype_is_cast_per_leaf():
    tree = load_tree(TABLE, stored(), ABSTRACT, dtype=jnp.bfloat16)
    assert len(jax.tree.leaves(tree)) == 7
    assert all(leaf.dtype == jnp.bfloat16 for leaf in jax.tree.leaves(tree))
    mixed = stored(**{"blocks.1.to_q.bias": np.ones(6, np.float16)})
    assert load_tree(TABLE, mixed, ABSTRACT)["blocks"]["q"]["bias"].dtype == np.float32


SPECS = {  # layers, width and channels; more devices than parts hold the same one
    "blocks/q/kernel": PartitionSpec(None, "a", "b"),
    "blocks/q/bias": PartitionSpec(None, "b"),
    "gamma": PartitionSpec(),
}


def over_eight_devices(path):
    mesh = jax.make_mesh((4, 2), ("a", "b"), axis_types=(AxisType.Auto,) * 2)
    return NamedSharding(mesh, SPECS.get(path, PartitionSpec(None, None, None, "b")))


def test_every_device_gets_its_part_and_no_other_is_made(monkeypatch):
    made, aligned = [], convert.aligned
    monkeypatch.setattr(convert, "aligned", lambda *a: made.append(a[0]) or aligned(*a))
    shardings = {path: over_eight_devices(path) for path, _ in named_leaves(ABSTRACT)}
    tree = load_tree(TABLE, stored(), ABSTRACT, shardings=shardings)
    assert_same(tree, random_tree())
    assert {path: leaf.sharding for path, leaf in named_leaves(tree)} == shardings
    kernel = tree["blocks"]["q"]["kernel"]
    assert {shard.data.shape for shard in kernel.addressable_shards} == {(3, 1, 3)}
    assert made == [(3, 3)] * 2 + [(3, 1, 3)] * 8 + [(7,)] + [(1, 3, 3, 1, 5)] * 8


def test_a_process_reads_the_tensors_of_its_parts_alone():
    """Of a leaf whose layers are divided, as if other devices were another process's."""
    source, tree, read = stored(), random_tree(), []
    slots, whole = match(TABLE, source, ABSTRACT), source.read
    source.read = lambda name: read.append(name) or whole(name)
    parts = {((1, 3), (0, 2), (0, 6)): np.empty((2, 2, 6), np.float32)}
    for name, slot in slots.items():
        if slot.path == "blocks/q/kernel":
            fill(source, parts, (name, slot))
    (part,) = parts.values()
    np.testing.assert_array_equal(part, tree["blocks"]["q"]["kernel"][1:3, :2])
    assert sorted(read) == ["blocks.1.to_q.weight", "blocks.2.to_q.weight"]


def test_float16_refuses_to_overflow():
    source = stored(**{"norm.gamma": np.full((7, 1, 1, 1), 7e4, np.float32)})
    with pytest.raises(UserError, match="norm.gamma holds values beyond float16"):
        load_tree(TABLE, source, ABSTRACT, dtype=np.float16)
    load_tree(TABLE, source, ABSTRACT, dtype=jnp.bfloat16)


def test_one_error_lists_every_problem():
    source = stored(
        **{
            "blocks.2.to_q.weight": None,
            "norm.gamma": None,
            "up.1.1.weight": np.ones((5, 2, 3, 3), np.float32),
            "lora": np.ones(3, np.float32),
            "blocks.3.to_q.bias": np.ones(6, np.float32),
            "step.12": np.ones((), np.float32),
        }
    )
    with pytest.raises(UserError) as caught:
        load_tree(TABLE, source, ABSTRACT)
    first, *rest = str(caught.value).split("\n")
    assert first == "file does not hold this model (11 tensors): 2 missing, 1 mis-shaped, 2 unknown"
    assert sorted(rest) == [
        "  mis-shaped up.1.1.weight: [5, 2, 3, 3], expected [5, 2, 1, 3, 3]",
        "  missing blocks.2.to_q.weight [6, 4]",
        "  missing norm.gamma [7, 1, 1, 1]",
        "  unknown blocks.3.to_q.bias [6]",
        "  unknown lora [3]",
    ]


def test_very_many_problems_are_folded_by_number():
    arrays = {f"layer.{i}.weight": np.ones(2, np.float32) for i in range(100)}
    with pytest.raises(UserError) as caught:
        load_tree(TABLE, DictSource(arrays, name="other"), ABSTRACT)
    lines = str(caught.value).split("\n  ")
    assert "unknown layer.*.weight [2] (x100)" in lines
    assert "missing blocks.*.to_q.weight [6, 4] (x3)" in lines
    assert "missing norm.gamma [7, 1, 1, 1]" in lines


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (TABLE[1:], "blocks/q/kernel has 0 rules"),
        ((*TABLE, Rule("x", "gamma")), "gamma has 2 rules"),
        ((*TABLE[:3], Rule("blocks.0.to_q.bias", "gamma")), "feeds both"),
        ((*TABLE[:3], Rule("g", "gamma", LINEAR)), "does not fit"),
    ],
)
def test_a_faulty_table_is_a_programming_error(table, message):
    with pytest.raises(ValueError, match=message) as caught:
        source_shapes(table, ABSTRACT)
    assert not isinstance(caught.value, UserError)


def test_one_stored_tensor_may_be_several_of_another_table():
    abstract = {"qkv": {"kernel": shaped(2, 3, 4, 4), "bias": shaped(2, 3, 4)}}
    words = (("n", ("q", "k", "v")),)
    apart = (
        Rule("layers.{i}.{n}_proj.weight", "qkv/kernel", LINEAR, words=words),
        Rule("layers.{i}.{n}_proj.bias", "qkv/bias", words=words),
    )
    fused = (
        Rule("{i}.qkv.weight", "qkv/kernel", Transform("(n o) i -> n i o", (("n", 3),))),
        Rule("{i}.qkv.bias", "qkv/bias", Transform("(n o) -> n o", (("n", 3),))),
    )
    assert source_shapes(apart, abstract)["layers.1.v_proj.weight"] == (4, 4)
    assert source_shapes(fused, abstract)["1.qkv.weight"] == (12, 4)
    random = np.random.default_rng(0)
    shapes = source_shapes(apart, abstract)
    source = DictSource({name: random.normal(size=s) for name, s in shapes.items()})
    one = dict(transcode(source, apart, fused, abstract))
    three = [source.read(f"layers.1.{n}_proj.weight") for n in "qkv"]
    np.testing.assert_array_equal(one["1.qkv.weight"], np.concatenate(three))
    back = dict(transcode(DictSource(one), fused, apart, abstract))
    assert_same(back, {name: source.read(name) for name in shapes})
    trees = [load_tree(t, DictSource(a), abstract) for t, a in ((apart, back), (fused, one))]
    assert_same(*trees)
