"""UMT5 encoder against transformers on random weights: bias 1e-6, block 1e-5, model 1e-4."""

import copy

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from flax import nnx

from skyreels_jax.core.tree import named_leaves
from skyreels_jax.models.umt5.config import UMT5Config
from skyreels_jax.models.umt5.modeling import Block, UMT5Encoder, buckets, position_bias
from skyreels_jax.models.umt5.weights import diffusers_table
from skyreels_jax.testing.stored import DictSource, export_tree
from skyreels_jax.weights.convert import load_tree

CONFIG = UMT5Config(
    vocab_size=50, d_model=24, d_kv=6, d_ff=40, num_layers=3, num_heads=5,
    relative_attention_num_buckets=16, relative_attention_max_distance=20,
)  # fmt: skip
LENGTHS = np.array([23, 7, 1])


def close(ours, theirs, tolerance):
    theirs = theirs.detach().float().numpy()
    scale = np.abs(theirs).max()
    assert np.abs(np.asarray(ours, np.float32) - theirs).max() <= tolerance * scale


def build(tree=None, remat="none"):
    """Returns our model with `tree` for parameters, else its abstract tree."""
    abstract = nnx.eval_shape(lambda: UMT5Encoder(CONFIG, remat=remat, rngs=nnx.Rngs(0)))
    graphdef, state = nnx.split(abstract)
    if tree is None:
        return nnx.to_pure_dict(state)
    nnx.replace_by_pure_dict(state, tree)
    return nnx.merge(graphdef, state)


@jax.jit
def run(tree, ids, mask):
    return build(tree)(ids, mask)


@pytest.fixture(scope="module")
def pair():
    torch.manual_seed(0)
    config = transformers.UMT5Config(**vars(CONFIG))
    theirs = transformers.UMT5EncoderModel(config).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():  # norms too must differ from their defaults
            parameter.copy_(torch.randn_like(parameter) * 0.3 + (parameter.ndim == 1))
    arrays = {name: tensor.numpy() for name, tensor in theirs.state_dict().items()}
    return theirs, load_tree(diffusers_table(CONFIG), DictSource(arrays), build())


@pytest.fixture(scope="module")
def tokens():
    ids = np.random.default_rng(0).integers(0, CONFIG.vocab_size, (3, 23))
    return ids, np.arange(23)[None] < LENGTHS[:, None]


def theirs_forward(model, ids, mask):
    return model(torch.tensor(ids), attention_mask=torch.tensor(mask).long()).last_hidden_state


@pytest.mark.parametrize(("count", "far"), [(32, 128), (16, 20), (8, 16)])
def test_buckets_equal_pytorch_on_every_distance(count, far):
    config = transformers.UMT5Config(
        relative_attention_num_buckets=count, relative_attention_max_distance=far,
        d_model=4, d_kv=2, d_ff=4, num_layers=1, num_heads=2, vocab_size=3,
    )  # fmt: skip
    attention = transformers.UMT5EncoderModel(config).encoder.block[0].layer[0].SelfAttention
    distance = np.arange(-700, 700)
    expected = attention._relative_position_bucket(torch.tensor(distance)).numpy()
    np.testing.assert_array_equal(buckets(distance, count=count, max_distance=far), expected)


@pytest.mark.parametrize("length", [1, 2, 37])
def test_position_bias_is_a_lookup_of_key_minus_query(length):
    table = jax.random.normal(jax.random.key(0), (16, 3))
    bias = jax.jit(lambda table: position_bias(table, length, max_distance=20))(table)
    distance = np.arange(length)[None, :] - np.arange(length)[:, None]
    expected = table[buckets(distance, count=16, max_distance=20)].transpose(2, 0, 1)
    np.testing.assert_array_equal(bias, expected)


def test_block(pair, tokens):
    theirs, tree = pair
    graphdef, state = nnx.split(Block(CONFIG, rngs=nnx.Rngs(0)))
    nnx.replace_by_pure_dict(state, jax.tree.map(lambda leaf: leaf[1], tree["blocks"]))
    x = np.random.default_rng(1).normal(size=(3, 23, CONFIG.d_model)).astype(np.float32)
    mask = tokens[1]
    visible = torch.tensor(mask)[:, None, None].expand(-1, 1, 23, -1)
    expected = theirs.encoder.block[1](torch.tensor(x), attention_mask=visible)
    ours = jax.jit(lambda x, m: nnx.merge(graphdef, state)(x, m))(x, mask)
    close(ours, expected, 1e-5)


def test_model(pair, tokens):
    theirs, tree = pair
    ids, mask = tokens
    ours = run(tree, ids, mask)
    assert ours.dtype == jnp.float32
    close(ours, theirs_forward(theirs, ids, mask), 1e-4)


def test_padding_changes_nothing(pair, tokens):
    tree, (ids, mask) = pair[1], tokens
    short = run(tree, ids[1:2, :7], np.ones((1, 7), bool))
    np.testing.assert_allclose(short, run(tree, ids, mask)[1:2, :7], atol=2e-5)


def test_bfloat16_is_as_close_to_float32_as_pytorch_is(pair, tokens):
    theirs, tree = pair
    ids, mask = tokens
    exact = theirs_forward(theirs, ids, mask).detach().numpy()[mask]
    low = load_tree(
        diffusers_table(CONFIG),
        DictSource(dict(export_tree(diffusers_table(CONFIG), tree))),
        build(),
        dtype=jnp.bfloat16,
    )
    ours = run(low, ids, mask)
    assert ours.dtype == jnp.bfloat16
    half = copy.deepcopy(theirs).to(torch.bfloat16)
    theirs_low = theirs_forward(half, ids, mask).detach().float().numpy()
    errors = [
        np.sqrt(((np.asarray(low, np.float32)[mask] - exact) ** 2).mean() / (exact**2).mean())
        for low in (ours, theirs_low)
    ]
    assert errors[0] < 0.05 and errors[0] < 1.2 * errors[1]


def test_gradients(pair, tokens):
    theirs, tree = pair
    ids, mask = tokens
    weight = np.random.default_rng(2).normal(size=(*ids.shape, CONFIG.d_model)).astype(np.float32)
    theirs.zero_grad()
    (theirs_forward(theirs, ids, mask) * torch.tensor(weight)).sum().backward()
    expected = {name: parameter.grad.numpy() for name, parameter in theirs.named_parameters()}
    for remat in ("none", "block"):
        loss = lambda t, r=remat: jnp.sum(  # noqa: E731
            build(t, r)(jnp.asarray(ids), jnp.asarray(mask)) * weight
        )
        grads = dict(export_tree(diffusers_table(CONFIG), jax.jit(jax.grad(loss))(tree)))
        assert set(grads) == set(expected)
        for name, grad in grads.items():
            close(grad, torch.tensor(expected[name]), 1e-4)


def test_parameters_are_initialised_as_in_transformers():
    config = UMT5Config(vocab_size=400, d_model=64, d_kv=8, d_ff=160, num_layers=4, num_heads=6)
    tree = nnx.to_pure_dict(nnx.split(UMT5Encoder(config, rngs=nnx.Rngs(0)))[1])
    theirs = transformers.UMT5EncoderModel(transformers.UMT5Config(**vars(config)))
    arrays = {name: tensor.detach().numpy() for name, tensor in theirs.named_parameters()}
    reference = dict(named_leaves(load_tree(diffusers_table(config), DictSource(arrays), tree)))
    for path, leaf in named_leaves(tree):
        np.testing.assert_allclose(np.std(leaf), np.std(reference[path]), rtol=0.1, err_msg=path)
