"""CLIP vision encoder against transformers on random weights: block 1e-5, model 1e-4."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from flax import nnx

from skyreels_jax.core.config import to_dict
from skyreels_jax.core.errors import UserError
from skyreels_jax.core.tree import named_leaves
from skyreels_jax.models.clip.config import ARCHITECTURES, CLIPVisionConfig
from skyreels_jax.models.clip.modeling import Block, CLIPVisionEncoder
from skyreels_jax.models.clip.weights import diffusers_table
from skyreels_jax.testing.stored import DictSource
from skyreels_jax.weights.convert import load_tree

SIZES = {
    "hidden_size": 24, "intermediate_size": 40, "projection_dim": 10, "num_hidden_layers": 3,
    "num_attention_heads": 3, "image_size": 20, "patch_size": 5,
}  # fmt: skip
CONFIGS = {
    "plain": CLIPVisionConfig(**SIZES),
    "projection": CLIPVisionConfig(architectures=ARCHITECTURES[1:], hidden_act="gelu", **SIZES),
}


def close(ours, theirs, tolerance):
    theirs = theirs.detach().float().numpy()
    assert ours.shape == theirs.shape
    assert np.abs(np.asarray(ours, np.float32) - theirs).max() <= tolerance * np.abs(theirs).max()


def build(config):
    model = nnx.eval_shape(lambda: CLIPVisionEncoder(config, rngs=nnx.Rngs(0)))
    graphdef, state = nnx.split(model)
    return graphdef, nnx.to_pure_dict(state)


def torch_model(config):
    values = to_dict(config)
    name = values.pop("architectures")[0]
    torch.manual_seed(0)
    model = getattr(transformers, name)(transformers.CLIPVisionConfig(**values)).eval()
    with torch.no_grad():
        for parameter in model.parameters():  # norms too must differ from their defaults
            parameter.copy_(torch.randn_like(parameter) * 0.3 + (parameter.ndim == 1))
    return model


@pytest.fixture(scope="module", params=CONFIGS)
def pair(request):
    config = CONFIGS[request.param]
    theirs = torch_model(config)
    arrays = {name: tensor.numpy() for name, tensor in theirs.state_dict().items()}
    graphdef, abstract = build(config)
    tree = load_tree(diffusers_table(config), DictSource(arrays), abstract)
    return config, theirs, graphdef, tree


@pytest.fixture(scope="module")
def pixels():
    return np.random.default_rng(0).normal(size=(2, 20, 20, 3)).astype(np.float32)


def torch_forward(model, pixels):
    with torch.no_grad():
        return model(torch.tensor(pixels).permute(0, 3, 1, 2), output_hidden_states=True)


def test_states_and_pooled_vector(pair, pixels):
    config, theirs, graphdef, tree = pair
    both = jax.jit(
        lambda tree, x: (nnx.merge(graphdef, tree)(x), nnx.merge(graphdef, tree).pooled(x))
    )
    states, pooled = both(tree, pixels)
    expected = torch_forward(theirs, pixels)
    assert states.shape == (2, 17, 24) and states.dtype == jnp.float32
    close(states, expected.hidden_states[-2], 1e-4)
    close(pooled, expected.image_embeds if config.projects else expected.pooler_output, 1e-4)


def test_block(pair):
    config, theirs, _, tree = pair
    graphdef, state = nnx.split(Block(config, rngs=nnx.Rngs(0)))
    nnx.replace_by_pure_dict(state, jax.tree.map(lambda leaf: leaf[1], tree["blocks"]))
    x = np.random.default_rng(1).normal(size=(2, 17, config.hidden_size)).astype(np.float32)
    after, before = jax.jit(lambda x: nnx.merge(graphdef, state)((x, x)))(x)
    encoder = getattr(theirs, "vision_model", theirs).encoder
    close(after, encoder.layers[1](torch.tensor(x), attention_mask=None), 1e-5)
    np.testing.assert_array_equal(before, x)


def test_parameters_are_initialised_as_in_transformers():
    config = CLIPVisionConfig(
        architectures=ARCHITECTURES[1:], hidden_size=64, intermediate_size=96, projection_dim=80,
        num_hidden_layers=4, num_attention_heads=4, image_size=40, patch_size=5,
    )  # fmt: skip
    values = to_dict(config)
    del values["architectures"]
    theirs = transformers.CLIPVisionModelWithProjection(transformers.CLIPVisionConfig(**values))
    arrays = {name: tensor.numpy() for name, tensor in theirs.state_dict().items()}
    reference = load_tree(diffusers_table(config), DictSource(arrays), build(config)[1])
    state = jax.jit(lambda: nnx.state(CLIPVisionEncoder(config, rngs=nnx.Rngs(0))))()
    reference = dict(named_leaves(reference))
    for path, leaf in named_leaves(nnx.to_pure_dict(state)):
        rtol = 0.3 if path == "class_embedding" else 0.1
        np.testing.assert_allclose(np.std(leaf), np.std(reference[path]), rtol=rtol, err_msg=path)


def test_other_sizes_are_refused():
    graphdef, abstract = build(CONFIGS["plain"])
    for shape in ((1, 20, 25, 3), (1, 20, 20, 4)):
        with pytest.raises(UserError, match="images must be"):
            jax.eval_shape(lambda tree, x: nnx.merge(graphdef, tree)(x), abstract, jnp.zeros(shape))
