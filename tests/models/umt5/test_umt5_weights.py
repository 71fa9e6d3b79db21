"""UMT5 name tables: accounting at full size, ties, the official names."""

import json

import jax
import numpy as np
import pytest
import torch
import transformers
from flax import nnx

from skyreels_jax.core.config import from_dict
from skyreels_jax.core.errors import UserError
from skyreels_jax.core.tree import count_parameters
from skyreels_jax.models.umt5.config import IGNORED, XXL, UMT5Config
from skyreels_jax.models.umt5.modeling import UMT5Encoder
from skyreels_jax.models.umt5.weights import diffusers_table, official_table
from skyreels_jax.testing.stored import DictSource, export_tree, source_shapes
from skyreels_jax.weights.convert import load_tree

TINY = UMT5Config(vocab_size=11, d_model=8, d_kv=2, d_ff=6, num_layers=2, num_heads=3)


def abstract(config):
    model = nnx.eval_shape(lambda: UMT5Encoder(config, rngs=nnx.Rngs(0)))
    return nnx.to_pure_dict(nnx.split(model)[1])


def test_xxl_matches_transformers_key_for_key():
    with torch.device("meta"):
        theirs = transformers.UMT5EncoderModel(transformers.UMT5Config(**vars(XXL)))
    expected = {name: tuple(tensor.shape) for name, tensor in theirs.state_dict().items()}
    assert expected.pop("encoder.embed_tokens.weight", None) in (None, expected["shared.weight"])
    assert source_shapes(diffusers_table(XXL), abstract(XXL)) == expected
    assert count_parameters(abstract(XXL)) == 5_680_910_336


def test_official_names_of_xxl():
    shapes = source_shapes(official_table(XXL), abstract(XXL))
    assert len(shapes) == 242 == len(source_shapes(diffusers_table(XXL), abstract(XXL)))
    assert shapes["token_embedding.weight"] == (256384, 4096)
    assert shapes["blocks.23.attn.q.weight"] == (4096, 4096)
    assert shapes["blocks.0.pos_embedding.embedding.weight"] == (32, 64)
    assert shapes["blocks.7.ffn.gate.0.weight"] == (10240, 4096)
    assert shapes["blocks.7.ffn.fc2.weight"] == (4096, 10240)
    assert shapes["norm.weight"] == (4096,)


def test_the_tied_embedding_is_found_under_either_name():
    random = np.random.default_rng(0)
    shapes = source_shapes(diffusers_table(TINY), abstract(TINY))
    arrays = {k: random.normal(size=s).astype(np.float32) for k, s in shapes.items()}
    tied, name = dict(arrays), "encoder.embed_tokens.weight"
    tied[name] = tied.pop("shared.weight")
    trees = [
        load_tree(diffusers_table(TINY), DictSource(a), abstract(TINY))
        for a in (arrays, tied, {**arrays, name: tied[name]})
    ]
    jax.tree.map(np.testing.assert_array_equal, *trees)
    exported = dict(export_tree(diffusers_table(TINY), trees[0]))
    assert exported.keys() == arrays.keys()
    with pytest.raises(UserError, match="contradicting shared.weight and encoder.embed_tokens"):
        wrong = DictSource({**arrays, name: tied[name] + 1})
        load_tree(diffusers_table(TINY), wrong, abstract(TINY))


def test_config_reads_what_transformers_writes(tmp_path):
    theirs = transformers.UMT5EncoderModel(transformers.UMT5Config(**vars(TINY)))
    theirs.save_pretrained(tmp_path)
    values = json.loads((tmp_path / "config.json").read_text())
    assert from_dict(UMT5Config, values, ignore=IGNORED) == TINY
    with pytest.raises(UserError, match="did you mean 'num_heads'"):
        from_dict(UMT5Config, {"num_head": 3}, ignore=IGNORED)
    with pytest.raises(UserError, match="gated-gelu"):
        from_dict(UMT5Config, {"feed_forward_proj": "relu"})
