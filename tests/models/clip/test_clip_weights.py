"""CLIP name tables and configuration: accounting at full size, prefixes, the official names."""

import json

import jax
import numpy as np
import pytest
import torch
import transformers
from flax import nnx

from skyreels_jax.core.config import from_dict, to_dict
from skyreels_jax.core.errors import UserError
from skyreels_jax.core.tree import count_parameters
from skyreels_jax.models.clip.config import ARCHITECTURES, IGNORED, VIT_H_14, CLIPVisionConfig
from skyreels_jax.models.clip.modeling import CLIPVisionEncoder
from skyreels_jax.models.clip.weights import TEXTUAL, diffusers_table, official_table
from skyreels_jax.testing.stored import DictSource, export_tree, source_shapes, transcode
from skyreels_jax.weights.convert import load_tree
from skyreels_jax.weights.table import matcher

SIZES = {
    "hidden_size": 8, "intermediate_size": 12, "projection_dim": 6, "num_hidden_layers": 2,
    "num_attention_heads": 2, "image_size": 8, "patch_size": 4, "hidden_act": "gelu",
}  # fmt: skip
TINY = CLIPVisionConfig(**SIZES)
PROJECTS = CLIPVisionConfig(architectures=ARCHITECTURES[1:], **SIZES)


def abstract(config):
    model = nnx.eval_shape(lambda: CLIPVisionEncoder(config, rngs=nnx.Rngs(0)))
    return nnx.to_pure_dict(nnx.split(model)[1])


def stored(config, table, dtype=np.float32):
    random = np.random.default_rng(0)
    shapes = source_shapes(table(config), abstract(config))
    return {name: random.normal(size=shape).astype(dtype) for name, shape in shapes.items()}


def torch_config(config):
    values = to_dict(config)
    del values["architectures"]
    return transformers.CLIPVisionConfig(**values)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_full_size_matches_transformers_key_for_key(architecture):
    config = CLIPVisionConfig(**{**vars(VIT_H_14), "architectures": (architecture,)})
    with torch.device("meta"):
        theirs = getattr(transformers, architecture)(torch_config(config)).state_dict()
    prefix = "" if config.projects else "vision_model."
    expected = {prefix + name: tuple(tensor.shape) for name, tensor in theirs.items()}
    tree = abstract(config)
    assert source_shapes(diffusers_table(config), tree) == expected
    millions = count_parameters(tree) / 1e6
    assert millions == pytest.approx(630.77 + 1.31 * config.projects, abs=0.01)
    assert config.tokens == 257


def test_official_names_of_vit_h_14():
    tree = abstract(VIT_H_14)
    shapes = source_shapes(official_table(VIT_H_14), tree)
    # Per block two tensors each of norm1, to_qkv, proj, norm2, mlp.0 and mlp.2.
    assert len(shapes) == 32 * 12 + 8
    expected = {
        "visual.cls_embedding": (1, 1, 1280),
        "visual.pos_embedding": (1, 257, 1280),
        "visual.patch_embedding.weight": (1280, 3, 14, 14),
        "visual.pre_norm.weight": (1280,),
        "visual.transformer.31.norm1.bias": (1280,),
        "visual.transformer.0.attn.to_qkv.weight": (3840, 1280),
        "visual.transformer.0.attn.to_qkv.bias": (3840,),
        "visual.transformer.0.attn.proj.weight": (1280, 1280),
        "visual.transformer.7.mlp.0.weight": (5120, 1280),
        "visual.transformer.7.mlp.2.weight": (1280, 5120),
        "visual.post_norm.weight": (1280,),
        "visual.head": (1280, 1024),
    }
    assert expected.items() <= shapes.items()


@pytest.mark.parametrize("config", [TINY, PROJECTS], ids=["plain", "projection"])
def test_there_and_back_is_bit_exact(config):
    source = DictSource(stored(config, diffusers_table, np.float16))
    there = dict(
        transcode(source, diffusers_table(config), official_table(config), abstract(config))
    )
    assert ("visual.head" in there) == config.projects
    back = dict(
        transcode(
            DictSource(there), official_table(config), diffusers_table(config), abstract(config)
        )
    )
    assert back.keys() == set(source.keys())
    for name, array in back.items():
        assert array.dtype == np.float16
        np.testing.assert_array_equal(array, source.read(name), err_msg=name)


def test_the_prefix_may_be_missing_as_in_transformers_5():
    arrays = stored(TINY, diffusers_table)
    bare = {name.removeprefix("vision_model."): array for name, array in arrays.items()}
    trees = [
        load_tree(diffusers_table(TINY), DictSource(a), abstract(TINY)) for a in (arrays, bare)
    ]
    jax.tree.map(np.testing.assert_array_equal, *trees)
    assert dict(export_tree(diffusers_table(TINY), trees[0])).keys() == arrays.keys()


def test_the_text_half_of_the_official_file_is_known_and_not_read():
    arrays = stored(PROJECTS, official_table)
    text = [name.format(i=23) for name in TEXTUAL]
    assert "textual.blocks.23.attn.q.weight" in text and "textual.head.2.weight" in text
    whole = arrays | {name: np.zeros(1, np.float32) for name in text}
    tree = load_tree(official_table(PROJECTS), DictSource(whole), abstract(PROJECTS))
    table = official_table(TINY)
    load_tree(table, DictSource(whole), abstract(TINY))  # its visual.head as well
    np.testing.assert_array_equal(tree["projection"]["kernel"], arrays["visual.head"])
    assert not any(matcher(rule.source).fullmatch("textual.lm_head.weight") for rule in table)


@pytest.mark.parametrize("config", [TINY, PROJECTS], ids=["plain", "projection"])
def test_config_reads_what_transformers_writes(config, tmp_path):
    theirs = getattr(transformers, config.architectures[0])(torch_config(config))
    theirs.config.architectures = list(config.architectures)
    theirs.config.to_json_file(tmp_path / "config.json", use_diff=False)
    values = json.loads((tmp_path / "config.json").read_text())
    known = {name for name in values if name in vars(config) or name in IGNORED}
    assert from_dict(CLIPVisionConfig, {n: values[n] for n in known}, ignore=IGNORED) == config


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"architectures": ("CLIPModel",)}, "legal: CLIPVisionModel or CLIPVisionModelWithProj"),
        ({"hidden_size": 9}, "not a multiple of num_attention_heads = 2"),
        ({"image_size": 9}, "not a multiple of patch_size = 4"),
        ({"num_hidden_layers": 0}, "must be at least 1"),
    ],
)
def test_impossible_configs(change, message):
    with pytest.raises(UserError, match=message):
        CLIPVisionConfig(**{**vars(TINY), **change})
