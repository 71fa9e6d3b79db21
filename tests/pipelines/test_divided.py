"""A film is the same on any mesh of eight devices as on one; what does not go is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec
from safetensors.numpy import save_file

import skyreels_jax as sr
from skyreels_jax.core.errors import UserError
from skyreels_jax.core.tree import named_leaves
from skyreels_jax.diffusion import sample
from skyreels_jax.models import layout
from skyreels_jax.parallel.mesh import MeshConfig, make_mesh
from skyreels_jax.pipelines import load
from skyreels_jax.pipelines.divided import DividedVAE, check_mesh, cut
from skyreels_jax.pipelines.run_params import load_params
from skyreels_jax.testing.micro import micro_configs
from skyreels_jax.weights.params import TreeParams

PROMPT = "A red ring glides slowly to the right in a meadow, close-up."
MESHES = {
    "guidance, tokens, heads": MeshConfig(data=2, context=2, tensor=2, attention="ring"),
    "films, weights, tokens": MeshConfig(data=2, fsdp=2, context=2),
    "guidance, tokens by a ring": MeshConfig(fsdp=2, context=4, attention="ring"),
}
OPTIONS = {"num_frames": 9, "height": 32, "width": 64, "inference_steps": 2, "guidance_scale": 3}


def frames(folder, mesh):
    films = sr.load(str(folder), mesh=mesh).generate([PROMPT, "A blue square."], **OPTIONS)
    return np.stack([film.frames for film in films]).astype(int)


@pytest.fixture(scope="module")
def alone(micro_folder):
    return frames(micro_folder, None)


@pytest.fixture
def seen(monkeypatch):
    """Where state and latents are before each step."""
    found, advance = [], sample.compiled_advance

    def noted(solver, velocity, state, x, *rest):
        leaves = jax.tree.leaves((state, x))
        found.append([leaf.sharding if leaf.committed else None for leaf in leaves])
        return advance(solver, velocity, state, x, *rest)

    monkeypatch.setattr(sample, "compiled_advance", noted)
    return found


@pytest.mark.parametrize("mesh", MESHES.values(), ids=MESHES)
def test_same_films_on_any_mesh(micro_folder, alone, mesh, seen):
    assert alone.std() > 5
    assert np.abs(frames(micro_folder, mesh) - alone).max() <= 1
    assert len(seen) == 2 and seen[0] == seen[1]  # else each would be a program of its own
    assert all(where.is_fully_replicated and where.num_devices == 8 for where in seen[0])


def test_the_leaves_of_a_run_go_where_they_belong():
    kernel = np.arange(32, dtype=np.float32).reshape(4, 8)
    tree = {"mlp": {"kernel": kernel}, "norm": {"scale": np.ones(8, np.float32)}}
    mesh = make_mesh(MeshConfig(fsdp=8))
    specs = {"mlp/kernel": PartitionSpec(None, "fsdp"), "norm/scale": PartitionSpec()}
    where = {path: NamedSharding(mesh, spec) for path, spec in specs.items()}
    found = dict(named_leaves(load_params(TreeParams(tree), tree, jnp.bfloat16, shardings=where)))
    assert {path: leaf.sharding for path, leaf in found.items()} == where
    assert [leaf.dtype for leaf in found.values()] == [jnp.bfloat16, np.float32]
    assert {part.data.shape for part in found["mlp/kernel"].addressable_shards} == {(4, 1)}
    np.testing.assert_array_equal(found["mlp/kernel"], kernel)


def test_adapters_leave_weights_where_they_are(micro_folder, tmp_path):
    config, name = micro_configs()["transformer"], "transformer.blocks.0.ffn.net.0.proj"
    shapes = {"A": (1, config.width), "B": (config.ffn_dim, 1)}
    tensors = {f"{name}.lora_{x}.weight": np.ones(s, np.float32) for x, s in shapes.items()}
    save_file(tensors, tmp_path / "lora.safetensors")
    model = sr.load(str(micro_folder), mesh=MESHES["films, weights, tokens"])

    def kernel(lora):
        blocks = model._adapted(model.source.loras(lora))["transformer"]["blocks"]
        return blocks["ffn"]["up"]["kernel"]

    before = kernel(())
    assert len(before.sharding.device_set) == 8 and not before.is_fully_replicated
    found = [kernel(str(tmp_path / "lora.safetensors")), kernel(())]
    assert (np.asarray(found[0]) != np.asarray(before)).any()
    np.testing.assert_array_equal(found[1], before)
    assert [leaf.sharding for leaf in found] == [before.sharding] * 2


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((4, 8), ((), ("context", "data", "fsdp", "tensor"))),
        ((8, 4), (("context", "data", "fsdp", "tensor"), ())),
        ((4, 6), (("context",), ("data", "fsdp", "tensor"))),  # 6 is no multiple of 4, nor 4 of 8
        ((5, 6), ((), ("data", "fsdp", "tensor"))),  # four devices do the same
        ((5, 7), ((), ("fsdp", "tensor"))),
    ],
)
def test_pictures_go_over_the_devices_that_divide_them(size, expected):
    mesh = make_mesh(MeshConfig(data=2, context=4))
    assert cut(size, mesh) == PartitionSpec(None, None, *expected)


def test_a_vae_decodes_the_same_whatever_its_pictures_are_divided_by(micro_folder):
    """Of 5 x 6 latents, over four of eight devices and two of them."""
    component = layout.read_component(micro_folder / "vae", "vae")
    vae = layout.load_component(component, dtype="float32")
    latents = jax.random.normal(jax.random.key(0), (1, 3, 5, 6, component.config.z_dim))
    expected = vae.decode(latents)
    for config in (MeshConfig(data=2, context=4), MeshConfig(fsdp=8)):
        divided = DividedVAE(vae, make_mesh(config))
        found = jax.jit(divided.decode)(latents)
        np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("mesh", "options", "said"),
    [
        (MeshConfig(data=8), {}, "2 clips side by side .* over 8"),
        (MeshConfig(data=2, tensor=4), {"guidance_scale": 1}, "1 clips"),
        (MeshConfig(context=8), {"height": 32, "width": 48}, "tokens of a frame .* over 8"),
    ],
)
def test_what_devices_cannot_share(micro_folder, mesh, options, said):
    source = load.find(str(micro_folder))
    request = source.request(prompt=PROMPT, **(OPTIONS | options))
    with pytest.raises(UserError, match=said):
        check_mesh(mesh, source, request)
