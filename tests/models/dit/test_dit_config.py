"""Configuration, initialisation, and the full-size models as shapes only."""

import collections
import dataclasses

import jax
import numpy as np
import pytest
import torch
from diffusers import SkyReelsV2Transformer3DModel
from dit_oracle import SMALL, abstract
from flax import nnx

from skyreels_jax.core.config import from_dict, to_dict
from skyreels_jax.core.errors import UserError
from skyreels_jax.core.tree import count_parameters, named_leaves
from skyreels_jax.models.dit import DiTConfig, SkyReelsV2Transformer3D
from skyreels_jax.models.dit.config import CONFIGS, from_official
from skyreels_jax.models.dit.weights import diffusers_table, official_table
from skyreels_jax.testing.stored import DictSource, export_tree, source_shapes
from skyreels_jax.weights.convert import load_tree

FULL = dataclasses.replace(
    SMALL, image_dim=12, added_kv_proj_dim=40, pos_embed_seq_len=6, inject_sample_info=True
)
BILLIONS = {"1.3B": 1.4, "14B": 14.3}
SIZES = {config: name for name, config in CONFIGS.items()}  # equal configs once


@pytest.mark.parametrize("config", SIZES, ids=SIZES.values())
def test_full_size_tree_is_diffusers_tree(config):
    with torch.device("meta"):
        theirs = SkyReelsV2Transformer3DModel(**vars(config)).state_dict()
    tree = abstract(config)[1]
    expected = {name: tuple(tensor.shape) for name, tensor in theirs.items()}
    assert source_shapes(diffusers_table(config), tree) == expected
    official = source_shapes(official_table(config), tree)
    assert collections.Counter(official.values()) == collections.Counter(expected.values())
    text_only = 1 if config.image_dim is None else 1.15
    billions = BILLIONS[SIZES[config].split("-")[3]]
    assert count_parameters(tree) / 1e9 == pytest.approx(billions * text_only, rel=0.1)


def test_official_names():
    shapes = source_shapes(official_table(FULL), abstract(FULL)[1])
    expected = {
        "patch_embedding.weight": (40, 4, 1, 2, 2),
        "text_embedding.0.weight": (40, 24),
        "text_embedding.2.bias": (40,),
        "time_embedding.0.weight": (40, 32),
        "time_projection.1.weight": (240, 40),
        "img_emb.proj.0.weight": (12,),
        "img_emb.proj.1.weight": (12, 12),
        "img_emb.proj.3.weight": (40, 12),
        "img_emb.proj.4.bias": (40,),
        "img_emb.emb_pos": (1, 6, 12),
        "fps_embedding.weight": (2, 40),
        "fps_projection.0.weight": (40, 40),
        "fps_projection.2.weight": (240, 40),
        "blocks.1.self_attn.q.weight": (40, 40),
        "blocks.0.self_attn.norm_q.weight": (40,),
        "blocks.0.cross_attn.o.bias": (40,),
        "blocks.0.cross_attn.k_img.weight": (40, 40),
        "blocks.0.cross_attn.norm_k_img.weight": (40,),
        "blocks.0.norm3.weight": (40,),
        "blocks.0.ffn.0.weight": (48, 40),
        "blocks.1.ffn.2.weight": (40, 48),
        "blocks.0.modulation": (1, 6, 40),
        "head.head.weight": (12, 40),
        "head.modulation": (1, 2, 40),
    }
    assert expected.items() <= shapes.items()


@pytest.mark.parametrize("table", [diffusers_table, official_table])
def test_weights_there_and_back_bit_for_bit(table):
    tree = jax.tree.map(
        lambda x: np.random.default_rng(x.size).random(x.shape, np.float32), abstract(FULL)[1]
    )
    stored = DictSource(dict(export_tree(table(FULL), tree)))
    back = load_tree(table(FULL), stored, abstract(FULL)[1])
    for (name, a), (_, b) in zip(named_leaves(tree), named_leaves(back), strict=True):
        np.testing.assert_array_equal(a, b, err_msg=name)


def test_initialisation_follows_the_official_recipe():
    config = dataclasses.replace(FULL, num_attention_heads=8, added_kv_proj_dim=160)
    state = jax.jit(lambda: nnx.state(SkyReelsV2Transformer3D(config, rngs=nnx.Rngs(0))))()
    leaves = dict(named_leaves(nnx.to_pure_dict(state)))
    width = config.width
    deviation = {
        "text_embedder/up/kernel": 0.02,
        "time_embedder/down/kernel": 0.02,
        "time_proj/kernel": (2 / (7 * width)) ** 0.5,
        "fps_embedder/embedding": 0.02,
        "blocks/attn1/q/kernel": width**-0.5,
        "blocks/ffn/up/kernel": (2 / (width + 48)) ** 0.5,
        "blocks/modulation": width**-0.5,
        "head_modulation": width**-0.5,
    }
    for name, expected in deviation.items():
        assert np.std(leaves[name]) == pytest.approx(expected, rel=0.15), name
    for name, leaf in leaves.items():
        if name.endswith("scale"):
            assert np.all(leaf == 1), name
        zero = name in ("head/kernel", "blocks/attn2/v_img/kernel", "image_embedder/pos_embed")
        if name.endswith("bias") or zero or name == "fps_embedder/projection/down/kernel":
            assert not np.any(leaf), name


def test_config_reads_diffusers_json_and_official_json():
    values = {"_class_name": "SkyReelsV2Transformer3DModel"} | to_dict(FULL)
    assert from_dict(DiTConfig, values) == FULL
    official = {
        "_class_name": "WanModel",
        "model_type": "i2v",
        "text_len": 512,
        "dim": 5120,
        "in_dim": 36,
        "out_dim": 16,
        "num_heads": 40,
        "ffn_dim": 13824,
        "num_layers": 40,
        "freq_dim": 256,
        "eps": 1e-06,
    }
    assert from_official(official) == CONFIGS["SkyReels-V2-I2V-14B-540P"]
    for change, message in (
        ({"num_layer": 3}, "did you mean 'num_layers'"),
        ({"qk_norm": False}, "qk_norm must be true"),
        ({"model_type": "flf2v"}, "not one of 't2v', 'i2v'"),
        ({"num_heads": 39}, "not a multiple of num_heads 39"),
        ({"num_heads": None}, "not a multiple of num_heads None"),
    ):
        with pytest.raises(UserError, match=message):
            from_official(official | change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"qk_norm": None}, "rms_norm_across_heads"),
        ({"image_dim": 12}, "both image_dim and added_kv_proj_dim"),
        ({"image_dim": 12, "added_kv_proj_dim": 8}, "must be the width"),
        ({"attention_head_dim": 21}, "must be even"),
        ({"num_frame_per_block": 0}, "num_frame_per_block must be at least 1"),
        ({"num_attention_heads": 0, "ffn_dim": -1}, "num_attention_heads, ffn_dim must be at l"),
        ({"patch_size": (1, 0, 2)}, "patch_size must be at least 1"),
    ],
)
def test_impossible_configs(change, message):
    with pytest.raises(UserError, match=message):
        dataclasses.replace(SMALL, **change)
