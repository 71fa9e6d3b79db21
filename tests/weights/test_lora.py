"""Adapters on a small table: every spelling, sums of several, and all that does not fit in one go.

The names of the real model are tested against diffusers in tests/models/dit/test_dit_lora.py.
"""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

from skyreels_jax.core.errors import UserError
from skyreels_jax.testing.stored import DictSource
from skyreels_jax.weights.lora import export_lora, read_lora
from skyreels_jax.weights.merge import Adapter, Change, changed_paths, merge
from skyreels_jax.weights.peft import open_lora, peft_scaling
from skyreels_jax.weights.table import Rule
from skyreels_jax.weights.transforms import CONV3D, LINEAR
from skyreels_jax.weights.writer import write_file

SHAPES = {
    "blocks": {"q": {"kernel": (2, 4, 6), "bias": (2, 6)}, "modulation": (2, 1, 3)},
    "patch": {"kernel": (1, 2, 2, 3, 5), "bias": (5,)},
}
ABSTRACT = jax.tree.map(
    lambda shape: jax.ShapeDtypeStruct(shape, np.float32),
    SHAPES,
    is_leaf=lambda x: isinstance(x, tuple),
)


def table(q, modulation):
    return (
        Rule(f"blocks.{{i}}.{q}.weight", "blocks/q/kernel", LINEAR),
        Rule(f"blocks.{{i}}.{q}.bias", "blocks/q/bias"),
        Rule(f"blocks.{{i}}.{modulation}", "blocks/modulation"),
        Rule("patch.weight", "patch/kernel", CONV3D),
        Rule("patch.bias", "patch/bias"),
    )


TABLES = (table("attn.to_q", "scale_shift_table"), table("self_attn.q", "modulation"))


def draw(*shape, seed=0):
    return np.random.default_rng([seed, *shape]).normal(size=shape).astype(np.float32)


def tree(dtype=jnp.float32):
    return jax.tree.map(lambda leaf: jnp.asarray(draw(*leaf.shape), dtype), ABSTRACT)


def read(arrays, **options):
    return read_lora(DictSource(arrays, name="file"), TABLES, ABSTRACT, **options)


def delta(arrays, *, scale=1.0, **options):
    merged = merge(tree(), [(read(arrays, **options), scale)])
    return jax.tree.map(lambda new, old: np.asarray(new) - np.asarray(old), merged, tree())


def pair(name, *, rank=2, down="lora_A.weight", up="lora_B.weight", seed=0):
    return {
        f"{name}.{down}": draw(rank, 4, seed=seed),
        f"{name}.{up}": draw(6, rank, seed=seed),
    }


def product(*, rank=2, seed=0):
    return (draw(6, rank, seed=seed) @ draw(rank, 4, seed=seed)).T


def near(actual, expected):
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "down", "up"),
    [
        ("transformer.blocks.1.attn.to_q", "lora_A.weight", "lora_B.weight"),
        ("blocks.1.attn.to_q", "lora_A.default.weight", "lora_B.default.weight"),
        ("base_model.model.blocks.1.attn.to_q", "lora_A.weight", "lora_B.weight"),
        ("diffusion_model.blocks.1.self_attn.q", "lora_down.weight", "lora_up.weight"),
        ("lora_unet_blocks_1_self_attn_q", "lora_down.weight", "lora_up.weight"),
    ],
)
def test_every_spelling_changes_the_same_layer(name, down, up):
    changed = delta(pair(name, down=down, up=up))
    near(changed["blocks"]["q"]["kernel"][1], product())
    changed["blocks"]["q"]["kernel"][1] = 0
    assert not any(leaf.any() for leaf in jax.tree.leaves(changed))


def test_alpha_over_rank_and_scale():
    name = "diffusion_model.blocks.0.self_attn.q"
    alpha = {f"{name}.alpha": np.float32(5)}
    changed = delta(pair(name) | alpha, scale=-0.5)
    near(changed["blocks"]["q"]["kernel"][0], -0.5 * 5 / 2 * product())
    config = {"r": 2, "lora_alpha": 3, "alpha_pattern": {"blocks.1.self_attn.q": 8}}
    pairs = pair(name) | pair("diffusion_model.blocks.1.self_attn.q")
    changed = delta(pairs, scaling=peft_scaling(config, name="file"))
    near(changed["blocks"]["q"]["kernel"], np.stack([3 / 2 * product(), 8 / 2 * product()]))
    scaling = peft_scaling(config | {"use_rslora": True}, name="file")
    near(delta(pair(name), scaling=scaling)["blocks"]["q"]["kernel"][0], 3 / 2**0.5 * product())
    changed = delta(pair(name) | alpha, scaling=scaling)  # what the file says of a layer counts
    near(changed["blocks"]["q"]["kernel"][0], 5 / 2 * product())


def test_whole_changes_and_biases():
    changed = delta(
        {
            "diffusion_model.blocks.1.self_attn.q.diff": draw(6, 4),
            "diffusion_model.blocks.1.self_attn.q.diff_b": draw(6),
            "diffusion_model.blocks.0.diff_m": draw(1, 3),
        },
        scale=2,
    )["blocks"]
    near(changed["q"]["kernel"][1], 2 * draw(6, 4).T)
    near(changed["q"]["bias"][1], 2 * draw(6))
    near(changed["modulation"], 2 * np.stack([draw(1, 3), np.zeros((1, 3))]))
    name = "transformer.blocks.0.attn.to_q"
    biased = pair(name) | {f"{name}.lora_B.bias": draw(6)}
    scaling = peft_scaling({"lora_alpha": 1}, name="file")
    near(delta(biased, scaling=scaling)["blocks"]["q"]["bias"][0], 0.5 * draw(6))


def test_kernels_of_convolutions():
    down, up = draw(2, 3, 1, 2, 2), draw(5, 2, 1, 1, 1)
    changed = delta({"patch.lora_down.weight": down, "patch.lora_up.weight": up})
    expected = np.einsum("or,rithw->thwio", up[..., 0, 0, 0], down)
    near(changed["patch"]["kernel"], expected)


def test_several_at_once_are_the_sum():
    first = read(pair("blocks.0.attn.to_q", rank=1) | pair("blocks.1.attn.to_q", rank=3))
    second = read(
        pair("blocks.1.self_attn.q", rank=2, seed=1) | {"blocks.1.self_attn.q.diff": draw(6, 4)}
    )
    merged = merge(tree(), [(first, 0.5), (second, 2.0)])["blocks"]["q"]["kernel"]
    expected = np.asarray(tree()["blocks"]["q"]["kernel"]) + np.stack(
        [
            0.5 * product(rank=1),
            0.5 * product(rank=3) + 2 * product(rank=2, seed=1) + 2 * draw(6, 4).T,
        ]
    )
    near(merged, expected)
    assert changed_paths([(first, 1.0), (second, 1.0)]) == {"blocks/q/kernel"}


def test_untouched_leaves_are_kept_and_low_precision_is_rounded_once():
    base = tree(jnp.bfloat16)
    adapter = read(pair("blocks.0.attn.to_q"))
    merged = merge(base, [(adapter, 1.0)])
    assert merged["patch"]["kernel"] is base["patch"]["kernel"]
    kernel = base["blocks"]["q"]["kernel"]
    expected = kernel.astype(jnp.float32).at[0].add(product()).astype(jnp.bfloat16)
    np.testing.assert_array_equal(merged["blocks"]["q"]["kernel"], expected)
    np.testing.assert_array_equal(merge(base, [(adapter, 0.0)])["blocks"]["q"]["kernel"], kernel)


def test_one_error_names_all_that_does_not_fit():
    arrays = {
        **pair("blocks.7.attn.to_q"),
        "blocks.0.attn.to_q.dora_scale": draw(6),
        "blocks.0.attn.to_q.lora_A.weight": draw(2, 4),
        "blocks.0.attn.to_q.lora_B.weight": draw(6, 3),
        "blocks.0.self_attn.q.lora_down.weight": draw(2, 4),
        "blocks.1.self_attn.q.lora_up.weight": draw(6, 2),
        "blocks.1.diff_m": draw(3),
        "patch.lora_down.weight": draw(2, 4),
        "patch.lora_up.weight": draw(4, 2),
        "patch.alpha": draw(2),
    }
    with pytest.raises(UserError) as caught:
        read(arrays)
    text = str(caught.value)
    assert text.startswith("file is no adapter of this model: 3 unknown, 1 repeated, ")
    for line in (
        "unknown blocks.7.attn.to_q.lora_A.weight [2, 4]",
        "unknown blocks.0.attn.to_q.dora_scale [6]",
        "repeated blocks.0.self_attn.q.lora_down.weight: blocks.0.attn.to_q.lora_A.weight is",
        "mismatched ranks of blocks.0.attn.to_q: 2 down, 3 up",
        "unpaired blocks.1.self_attn.q.lora_up.weight: ",
        "mis-shaped blocks.1.diff_m: [3], expected [1, 3]",
        "mis-shaped patch.lora_down.weight: [2, 4], expected [rank, 3, 1, 2, 2]",
        "mis-shaped patch.lora_up.weight: [4, 2], expected [5, rank]",
        "mis-shaped patch.alpha: [2], expected one number",
    ):
        assert line in text, line


def test_files_without_an_adapter_and_dora():
    with pytest.raises(UserError, match="file holds no adapter"):
        read({})
    with pytest.raises(UserError, match="DoRA"):
        peft_scaling({"use_dora": True}, name="file")
    with pytest.raises(UserError, match="must be numbers"):
        peft_scaling({"lora_alpha": "16"}, name="file")


def test_alpha_of_a_peft_folder_and_of_a_header(tmp_path):
    arrays, config = pair("blocks.0.attn.to_q"), {"r": 2, "lora_alpha": 7}
    save_file(arrays, tmp_path / "adapter_model.safetensors")
    header = {"lora_adapter_metadata": json.dumps({"transformer.lora_alpha": 3})}
    save_file(arrays, tmp_path / "with_header.st", metadata=header)

    def scale(path):
        source, scaling = open_lora(path)
        return read_lora(source, TABLES, ABSTRACT, scaling=scaling).changes["blocks/q/kernel"][0].up

    plain = scale(tmp_path / "adapter_model.safetensors")
    np.testing.assert_array_equal(scale(tmp_path / "with_header.st"), np.float32(3 / 2) * plain)
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    for path in (tmp_path, tmp_path / "adapter_model.safetensors"):
        np.testing.assert_array_equal(scale(path), np.float32(7 / 2) * plain)
    (tmp_path / "adapter_config.json").write_text("{")
    with pytest.raises(UserError, match="adapter_config.json: not readable as json"):
        open_lora(tmp_path)


def factors(*, rank, seed=0):
    return {"down": draw(4, rank, seed=seed), "up": draw(rank, 6, seed=seed)}


def test_a_written_adapter_is_read_as_it_was(tmp_path):
    changes = [Change((1,), **factors(rank=2)), Change((0,), **factors(rank=3, seed=1))]
    adapter = Adapter(name="ours", changes={"blocks/q/kernel": changes})
    tensors = dict(export_lora(adapter, TABLES[0], ABSTRACT))
    assert {name: array.shape for name, array in tensors.items()} == {
        "transformer.blocks.0.attn.to_q.lora_A.weight": (3, 4),
        "transformer.blocks.0.attn.to_q.lora_B.weight": (6, 3),
        "transformer.blocks.1.attn.to_q.lora_A.weight": (2, 4),
        "transformer.blocks.1.attn.to_q.lora_B.weight": (6, 2),
    }
    write_file(tmp_path / "a.safetensors", tensors, metadata={"format": "pt"})
    source, scaling = open_lora(tmp_path / "a.safetensors")
    again = read_lora(source, TABLES, ABSTRACT, scaling=scaling).changes["blocks/q/kernel"]
    for change in changes:
        (other,) = (c for c in again if c.index == change.index)
        jax.tree.map(np.testing.assert_array_equal, other, change)
    half = dict(export_lora(adapter, TABLES[0], ABSTRACT, dtype="float16"))
    assert {array.dtype for array in half.values()} == {np.dtype("float16")}


@pytest.mark.parametrize(
    ("path", "change"),
    [
        ("blocks/q/kernel", Change((2,), **factors(rank=2))),
        ("blocks/q/kernel", Change((0,), whole=draw(4, 6))),
        ("blocks/k/kernel", Change((0,), **factors(rank=2))),
        ("patch/kernel", Change((), **factors(rank=2))),
    ],
)
def test_only_factors_of_linear_layers_are_written(path, change):
    adapter = Adapter(name="ours", changes={path: [change]})
    with pytest.raises(ValueError, match="no factors of a linear layer"):
        dict(export_lora(adapter, TABLES[0], ABSTRACT))
