"""A film is the same on any mesh of eight devices as on one; what does not go is refused."""

import numpy as np
import pytest

import skyreels_jax as sr
from skyreels_jax.core.errors import UserError
from skyreels_jax.parallel.mesh import MeshConfig
from skyreels_jax.pipelines import load

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


@pytest.mark.parametrize("mesh", MESHES.values(), ids=MESHES)
def test_same_films_on_any_mesh(micro_folder, alone, mesh):
    assert alone.std() > 5
    assert np.abs(frames(micro_folder, mesh) - alone).max() <= 1


@pytest.mark.parametrize(
    ("mesh", "options", "said"),
    [
        (MeshConfig(data=8), {}, "2 clips side by side .* over 8"),
        (MeshConfig(data=2, tensor=4), {"guidance_scale": 1}, "1 clips"),
        (MeshConfig(context=8), {"height": 32, "width": 48}, "tokens of a frame .* over 8"),
    ],
)
def test_what_devices_cannot_share(micro_folder, mesh, options, said):
    from skyreels_jax.pipelines.divided import check_mesh

    source = load.find(str(micro_folder))
    request = source.request(prompt=PROMPT, **(OPTIONS | options))
    with pytest.raises(UserError, match=said):
        check_mesh(mesh, source, request)
