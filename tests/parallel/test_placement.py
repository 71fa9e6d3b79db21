"""Placement: what is divided among devices comes back whole."""

import jax
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from skyreels_jax.parallel.mesh import MeshConfig, make_mesh
from skyreels_jax.parallel.placement import Placement


@pytest.fixture
def placement():
    return Placement(mesh=make_mesh(MeshConfig(fsdp=4, tensor=2)), rules=())


def divided(placement, shape, *axes):
    values = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    return jax.device_put(values, NamedSharding(placement.mesh, PartitionSpec(*axes))), values


def test_parts_are_gathered(placement):
    cases = {
        "bias": ((16,), "fsdp"),
        "kernel": ((16, 8), "fsdp", "tensor"),
        "blocks": ((3, 16, 8), None, "fsdp", "tensor"),
        "norms": ((3, 1, 8), None, None, "tensor"),
    }
    made = {name: divided(placement, shape, *axes) for name, (shape, *axes) in cases.items()}
    found = placement.gathered({name: array for name, (array, _) in made.items()})
    for name, (_, values) in made.items():
        assert isinstance(found[name], np.ndarray)
        np.testing.assert_array_equal(found[name], values)


def test_of_stacked_blocks_a_layer_at_a_time(placement):
    blocks, _ = divided(placement, (3, 16, 8), None, "fsdp", "tensor")
    layer, asked = placement.layer, []
    placement.__dict__["layer"] = lambda leaf, index: asked.append(index) or layer(leaf, index)
    placement.gathered({"blocks": blocks})
    assert asked == [0, 1, 2]
    text = layer.lower(blocks, 0).compile().as_text()
    assert "all-gather" in text
    assert "f32[16,8]" in text and "f32[3,16,8]" not in text
