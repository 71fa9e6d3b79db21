"""Configuration and names of the VAE against diffusers', at full size on the meta device."""

import dataclasses
import inspect

import jax
import numpy as np
import pytest
import torch
from diffusers import AutoencoderKLWan as TorchVAE
from diffusers.loaders.single_file_utils import convert_wan_vae_to_diffusers
from vae_oracle import RESIDUAL, abstract, config

from skyreels_jax.core.config import from_dict, to_dict
from skyreels_jax.core.errors import UserError
from skyreels_jax.core.tree import count_parameters
from skyreels_jax.models.vae.config import IGNORED_FIELDS, VAEConfig
from skyreels_jax.models.vae.weights import diffusers_table, official_table
from skyreels_jax.testing.stored import DictSource, export_tree, source_shapes
from skyreels_jax.weights.convert import load_tree, plan

# Wan-AI/Wan2.2-TI2V-5B-Diffusers, vae/config.json, without its 48 latent statistics.
WAN22 = {
    "_class_name": "AutoencoderKLWan",
    "attn_scales": [],
    "base_dim": 160,
    "clip_output": False,
    "decoder_base_dim": 256,
    "dim_mult": [1, 2, 4, 4],
    "dropout": 0.0,
    "in_channels": 12,
    "is_residual": True,
    "latents_mean": [0.0] * 48,
    "latents_std": [1.0] * 48,
    "num_res_blocks": 2,
    "out_channels": 12,
    "patch_size": 2,
    "scale_factor_spatial": 16,
    "scale_factor_temporal": 4,
    "temperal_downsample": [False, True, True],
    "z_dim": 48,
}
FULL = {"wan21": VAEConfig(), "wan22": from_dict(VAEConfig, WAN22, ignore=IGNORED_FIELDS)}
SMALL = {
    "wan21": config(),
    "wan22": config(**RESIDUAL),
    "attention": config(attn_scales=(0.5,), num_res_blocks=2),
}


def test_fields_and_defaults_are_those_of_diffusers():
    theirs = dict(inspect.signature(TorchVAE.__init__).parameters)
    del theirs["self"]
    ours = to_dict(VAEConfig())
    assert ours == {name: parameter.default for name, parameter in theirs.items()}


@pytest.mark.parametrize("name", [*FULL, "attention"])
def test_names_and_shapes_are_those_of_diffusers(name):
    settings = FULL.get(name) or SMALL[name]
    with torch.device("meta"):
        model = TorchVAE(**to_dict(settings))
    theirs = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    tree = abstract(settings)[1]
    assert source_shapes(diffusers_table(settings), tree) == theirs
    assert count_parameters(tree) == sum(p.numel() for p in model.parameters())


def test_official_names_are_those_diffusers_converts():
    tree = abstract(FULL["wan21"])[1]
    official = plan(official_table(FULL["wan21"]), tree)
    theirs = convert_wan_vae_to_diffusers({name: name for name in official})
    ours = {slot.path: name for name, slot in plan(diffusers_table(FULL["wan21"]), tree).items()}
    assert theirs == {ours[slot.path]: name for name, slot in official.items()}


def test_official_names_of_wan22():
    """Spot checks against the module structure of `wan/modules/vae2_2.py`."""
    shapes = source_shapes(official_table(FULL["wan22"]), abstract(FULL["wan22"])[1])
    assert len(shapes) == len(
        source_shapes(diffusers_table(FULL["wan22"]), abstract(FULL["wan22"])[1])
    )
    expected = {
        "conv1.weight": (96, 96, 1, 1, 1),
        "encoder.conv1.weight": (160, 12, 3, 3, 3),
        "encoder.downsamples.0.downsamples.2.resample.1.weight": (160, 160, 3, 3),
        "encoder.downsamples.1.downsamples.0.shortcut.weight": (320, 160, 1, 1, 1),
        "encoder.downsamples.1.downsamples.2.time_conv.weight": (320, 320, 3, 1, 1),
        "encoder.downsamples.3.downsamples.1.residual.6.bias": (640,),
        "decoder.middle.1.norm.gamma": (1024, 1, 1),
        "decoder.upsamples.0.upsamples.3.time_conv.weight": (2048, 1024, 3, 1, 1),
        "decoder.upsamples.2.upsamples.3.resample.1.weight": (512, 512, 3, 3),
        "decoder.upsamples.3.upsamples.2.residual.0.gamma": (256, 1, 1, 1),
        "decoder.head.2.weight": (12, 256, 3, 3, 3),
    }
    assert expected.items() <= shapes.items()


@pytest.mark.parametrize("name", ["wan21", "wan22"])
@pytest.mark.parametrize("table", [diffusers_table, official_table])
def test_round_trip_is_exact(name, table):
    shapes = abstract(SMALL[name])[1]
    random = np.random.default_rng(0)
    tree = jax.tree.map(lambda a: random.normal(size=a.shape).astype(a.dtype), shapes)
    arrays = dict(export_tree(table(SMALL[name]), tree))
    again = load_tree(table(SMALL[name]), DictSource(arrays), shapes)
    jax.tree.map(np.testing.assert_array_equal, again, tree)


def test_official_decoder_with_attention_is_refused():
    with pytest.raises(UserError, match="attn_scales must be empty"):
        official_table(SMALL["attention"])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"temperal_downsample": (True,)}, "one entry fewer than dim_mult"),
        ({"z_dim": 8}, "latents_mean needs z_dim = 8 values, got 16"),
        ({"latents_std": (1.0,)}, "latents_std needs"),
        ({"patch_size": 2}, "in_channels must be a multiple of patch_size"),
        ({"scale_factor_spatial": 16}, "scale_factor_spatial = 16, but .* give 8"),
        ({"scale_factor_temporal": 8}, "scale_factor_temporal = 8, but .* give 4"),
        ({"dropout": 1.0}, r"dropout must be in \[0, 1\)"),
        ({"attn_scales": (0.3,)}, "attn_scales must be taken from"),
        ({"attn_scales": (0.5,), "is_residual": True}, "empty with is_residual"),
        ({"num_res_blocks": 0}, "must be positive"),
    ],
)
def test_impossible_configurations(fields, message):
    with pytest.raises(UserError, match=message):
        dataclasses.replace(VAEConfig(), **fields)
