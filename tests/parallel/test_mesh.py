"""Meshes, rules for parameters, names for activations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import PartitionSpec as P

from skyreels_jax.core.errors import UserError
from skyreels_jax.core.tree import named_leaves
from skyreels_jax.models.dit.config import DiTConfig
from skyreels_jax.models.dit.modeling import SkyReelsV2Transformer3D
from skyreels_jax.models.dit.sharding import sharding_rules
from skyreels_jax.models.umt5.config import UMT5Config
from skyreels_jax.models.umt5.modeling import UMT5Encoder
from skyreels_jax.models.umt5.sharding import SHARDING_RULES
from skyreels_jax.parallel.activations import constrain
from skyreels_jax.parallel.mesh import MeshConfig, make_mesh
from skyreels_jax.parallel.placement import Placement
from skyreels_jax.parallel.rules import shardings, specs, within

LARGE = {"num_attention_heads": 40, "ffn_dim": 13824, "num_layers": 40}
IMAGES = {**LARGE, "in_channels": 36, "image_dim": 1280, "added_kv_proj_dim": 5120}


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ({"fsdp": -1}, (1, 8, 1, 1)),
        ({"data": 2, "fsdp": -1, "context": 2}, (2, 2, 1, 2)),
        ({"data": 2, "tensor": 4}, (2, 1, 4, 1)),
    ],
)
def test_the_open_axis_takes_what_is_left(sizes, expected):
    assert tuple(make_mesh(MeshConfig(**sizes)).shape.values()) == expected


@pytest.mark.parametrize("sizes", [{}, {"data": 3}, {"data": 3, "fsdp": -1}, {"data": 16}])
def test_a_mesh_that_does_not_fit_the_devices_is_refused(sizes):
    with pytest.raises(UserError, match="does not fit 8 devices; legal: sizes whose product is 8"):
        make_mesh(MeshConfig(**sizes))


@pytest.mark.parametrize("sizes", [{"data": 0}, {"data": -2}, {"data": -1, "fsdp": -1}])
def test_sizes_that_mean_nothing_are_refused(sizes):
    with pytest.raises(UserError, match="sizes of 1 or more, or one of -1"):
        MeshConfig(**sizes)


def abstract(make):
    return nnx.to_pure_dict(nnx.split(nnx.eval_shape(make), nnx.Param, ...)[1])


@pytest.mark.parametrize(
    "config",
    [
        DiTConfig(num_attention_heads=12, attention_head_dim=128, ffn_dim=8960, num_layers=30),
        DiTConfig(**LARGE, inject_sample_info=True),
        DiTConfig(**IMAGES),
        DiTConfig(**IMAGES, pos_embed_seq_len=514, cross_attn_norm=False),
    ],
    ids=["1.3B", "14B", "14B image", "14B frames"],
)
def test_every_parameter_of_the_transformer_has_a_rule_and_every_rule_a_parameter(config):
    params = abstract(lambda: SkyReelsV2Transformer3D(config, rngs=nnx.Rngs(0)))
    found = specs(params, sharding_rules(config))
    for (name, leaf), spec in zip(named_leaves(params), jax.tree.leaves(found), strict=True):
        divided = any(spec) or leaf.size < 2e6
        assert divided, f"{name} {leaf.shape} is whole on every device"


def test_every_parameter_of_the_text_encoder_has_a_rule():
    params = abstract(lambda: UMT5Encoder(UMT5Config(), rngs=nnx.Rngs(0)))
    found = specs({"text": params}, within("text", SHARDING_RULES))
    assert found["text"]["embedding"] == P(None, "fsdp")


def test_a_table_that_does_not_fit_says_everything_at_once():
    params = {"a": jnp.zeros((2, 2)), "b": jnp.zeros(2), "c": jnp.zeros(2)}
    rules = ((r"a", P("fsdp")), (r"c", P(None, "fsdp")), (r"d", P()))
    with pytest.raises(ValueError) as caught:
        specs(params, rules)
    for said in ("no rule for b (2,)", "c (2,) (its rule has 2 dimensions)", "dead rule 'd'"):
        assert said in str(caught.value)


def test_a_mesh_that_does_not_divide_a_parameter_is_refused():
    mesh = make_mesh(MeshConfig(fsdp=-1))
    with pytest.raises(UserError, match=r"12 of a over 8 devices \(fsdp\)"):
        shardings({"a": jnp.zeros((12, 2))}, ((r"a", P("fsdp")),), mesh)


def test_activations_are_left_alone_without_a_mesh_and_divided_with_one():
    x = jnp.zeros((4, 3, 4, 5))
    assert constrain(x, "batch", None, "tokens", None) is x
    with jax.set_mesh(make_mesh(MeshConfig(data=2, fsdp=2, context=2))):
        y = jax.jit(lambda x: constrain(x, "batch", None, "tokens", None))(x)
    assert tuple(y.sharding.spec)[:3] == (("data", "fsdp"), None, "context")


def test_what_a_batch_has_once_every_device_holds():
    placement = Placement(mesh=make_mesh(MeshConfig(fsdp=8)), rules=())
    rows = {"x": np.arange(16.0), "once": np.ones((1, 3))}
    placed = placement.batch(rows)
    assert placed["x"].addressable_shards[3].data.tolist() == [6, 7]
    assert placed["once"].shape == (1, 3) and placed["once"].sharding.is_fully_replicated
