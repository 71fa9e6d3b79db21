"""Adapters of the real model: names and sums against diffusers' own conversion, float32, 1e-4."""

import jax
import numpy as np
import pytest
import torch
from diffusers.loaders import lora_conversion_utils as diffusers_lora
from dit_oracle import SMALL, abstract, jax_video, parameters, relative_error, run, torch_model
from flax import nnx
from test_dit_parity import inputs, run_torch

from skyreels_jax.core.tree import named_leaves
from skyreels_jax.models import layout
from skyreels_jax.models.dit.weights import diffusers_table, official_table
from skyreels_jax.nn.lora import add_adapters
from skyreels_jax.pipelines.run import adapter_of
from skyreels_jax.testing.micro import micro_configs
from skyreels_jax.testing.stored import DictSource
from skyreels_jax.weights.lora import export_lora, read_lora
from skyreels_jax.weights.merge import Adapter, Change, merge
from skyreels_jax.weights.reader import open_source
from skyreels_jax.weights.writer import write_file

TABLES = (diffusers_table(SMALL), official_table(SMALL))
WIDTH, FFN = SMALL.width, SMALL.ffn_dim
BLOCK = {f"{attn}.{x}": (WIDTH, WIDTH) for attn in ("self_attn", "cross_attn") for x in "qkvo"}
BLOCK |= {"ffn.0": (FFN, WIDTH), "ffn.2": (WIDTH, FFN)}


def official_lora(*, rank, seed, prefix="diffusion_model.", dot=".", extra=True):
    """Returns an adapter of all blocks in official names, as torch tensors."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(*shape, generator=generator) / shape[-1] ** 0.5

    state = {}
    for i in range(SMALL.num_layers):
        for name, (out, fan_in) in BLOCK.items():
            layer = prefix + f"blocks.{i}.{name}".replace(".", dot)
            state[f"{layer}.lora_down.weight"] = draw(rank, fan_in)
            state[f"{layer}.lora_up.weight"] = draw(out, rank)
            state[f"{layer}.alpha"] = torch.tensor(rank / 2 + i)
            if extra:
                state[f"{layer}.diff_b"] = 0.1 * draw(out)
    if extra:
        state[f"{prefix}time_projection.1.lora_down.weight"] = draw(rank, WIDTH)
        state[f"{prefix}time_projection.1.lora_up.weight"] = draw(6 * WIDTH, rank)
        state[f"{prefix}head.head.lora_down.weight"] = draw(rank, WIDTH)
        state[f"{prefix}head.head.lora_up.weight"] = draw(SMALL.patch_channels, rank)
    return state


def ours(state):
    arrays = {name: tensor.numpy() for name, tensor in state.items()}
    return read_lora(DictSource(arrays), TABLES, abstract(SMALL)[1])


def add_by_hand(model, state, scale):
    """Adds an adapter in diffusers names, alpha in its factors, to the weights of `model`."""
    tensors = model.state_dict()
    for name, down in state.items():
        layer = name.removeprefix("transformer.").removesuffix(".lora_A.weight")
        if name.endswith("lora_A.weight"):
            tensors[f"{layer}.weight"] += scale * state[f"transformer.{layer}.lora_B.weight"] @ down
        elif name.endswith("lora_B.bias"):
            tensors[f"{layer.removesuffix('.lora_B.bias')}.bias"] += scale * down


@pytest.mark.filterwarnings("ignore")
def test_two_adapters_at_once_equal_diffusers():
    states = official_lora(rank=4, seed=1), official_lora(rank=2, seed=2)
    theirs, convert = (
        torch_model(SMALL),
        diffusers_lora._convert_non_diffusers_wan_lora_to_diffusers,
    )
    base, adapters = parameters(SMALL, theirs.state_dict()), [ours(states[0])]
    converted = [convert(state) for state in states]  # which destroys them
    adapters.append(ours(converted[1]))
    add_by_hand(theirs, converted[0], 0.8)
    add_by_hand(theirs, converted[1], -0.3)
    merged = merge(base, [(adapters[0], 0.8), (adapters[1], -0.3)])
    expected = parameters(SMALL, theirs.state_dict())
    for (path, a), (_, b) in zip(named_leaves(merged), named_leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5, err_msg=path)

    batch = inputs(SMALL, frames=False)
    with torch.no_grad():
        reference = run_torch(theirs, batch)
        plain = run_torch(torch_model(SMALL), batch)
    model = nnx.merge(abstract(SMALL)[0], merged)
    assert relative_error(run(model, **batch), jax_video(reference)) < 1e-4
    assert relative_error(jax_video(plain), jax_video(reference)) > 0.1


def test_names_of_musubi_tuner():
    plain = official_lora(rank=2, seed=3, extra=False)
    flat = official_lora(rank=2, seed=3, extra=False, prefix="lora_unet_", dot="_")
    jax.tree.map(np.testing.assert_array_equal, ours(flat).changes, ours(plain).changes)
    both = [(ours(plain), 1.0)]
    both.append((ours(diffusers_lora._convert_musubi_wan_lora_to_diffusers(flat)), -1.0))
    zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), abstract(SMALL)[1])
    for leaf in jax.tree.leaves(merge(zeros, both)):
        np.testing.assert_allclose(leaf, 0, atol=1e-5)


def trained(rank=4, alpha=6.0):
    """Returns our model with adapters as after some training, and what it is a change of."""
    base = parameters(SMALL, torch_model(SMALL).state_dict())
    model = nnx.merge(abstract(SMALL)[0], base)
    targets = ("blocks/attn[12]/[qkvo]/kernel", "blocks/ffn/(up|down)/kernel", "time_proj/kernel")
    add_adapters(model, targets, rank=rank, alpha=alpha, rngs=nnx.Rngs(0))
    graphdef, params, rest = nnx.split(model, nnx.Param, ...)
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda p: (rng.normal(size=p.shape) / p.shape[-2] ** 0.5).astype(np.float32),
        nnx.to_pure_dict(params),
    )
    adapter = adapter_of(params, scale=alpha / rank, name="ours")
    return nnx.merge(graphdef, params, rest), adapter, base


@pytest.mark.filterwarnings("ignore")
def test_a_trained_adapter_makes_diffusers_model_what_it_makes_ours(tmp_path):
    model, adapter, base = trained()
    tensors = dict(export_lora(adapter, TABLES[0], abstract(SMALL)[1]))
    write_file(tmp_path / "pytorch_lora_weights.safetensors", tensors, metadata={"format": "pt"})
    theirs, batch = torch_model(SMALL), inputs(SMALL, frames=False)
    theirs.load_lora_adapter(str(tmp_path), use_safetensors=True)
    with torch.no_grad():
        reference = jax_video(run_torch(theirs, batch))
        plain = jax_video(run_torch(torch_model(SMALL), batch))
    assert relative_error(plain, reference) > 0.1
    assert relative_error(run(model, **batch), reference) < 1e-4
    source = open_source(tmp_path / "pytorch_lora_weights.safetensors")
    merged = merge(base, [(read_lora(source, TABLES, abstract(SMALL)[1]), 1.0)])
    merged = nnx.merge(abstract(SMALL)[0], merged)
    assert relative_error(run(model, **batch), run(merged, **batch)) < 1e-5


@pytest.mark.filterwarnings("ignore")
def test_diffusers_pipeline_loads_an_exported_adapter(micro_folder, tmp_path):
    from diffusers import SkyReelsV2Pipeline

    config = micro_configs()["transformer"]
    _, shapes = layout.abstract_model("transformer", config)
    down, up = np.ones((config.width, 2), np.float32), np.ones((2, config.width), np.float32)
    change = {"blocks/attn2/o/kernel": [Change((1,), down=down, up=up)]}
    tensors = export_lora(Adapter(name="ours", changes=change), diffusers_table(config), shapes)
    write_file(tmp_path / "pytorch_lora_weights.safetensors", dict(tensors), metadata={})
    pipe = SkyReelsV2Pipeline.from_pretrained(micro_folder, dtype=torch.float32)
    before = pipe.transformer.blocks[1].attn2.to_out[0].weight.detach().clone()
    pipe.load_lora_weights(str(tmp_path))
    pipe.fuse_lora()
    after = pipe.transformer.blocks[1].attn2.to_out[0].get_base_layer().weight
    np.testing.assert_allclose((after - before).detach(), 2.0, atol=1e-5)
