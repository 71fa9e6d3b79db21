"""The shipped miniature: what its VAE keeps of a film, and how much of it 16 bits lose."""

import pathlib

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import skyreels_jax
from skyreels_jax.data.toy_film import world
from skyreels_jax.data.toy_film.render import render
from skyreels_jax.evals.judge import judge
from skyreels_jax.models import layout

TINY = pathlib.Path(skyreels_jax.__file__).parent / "assets" / "tiny"


@pytest.fixture(scope="module")
def vae():
    return layout.load_component(layout.read_component(TINY / "vae", "vae"), dtype=jnp.float32)


def test_films_survive_the_vae_and_are_still_judged_right(vae):
    round_trip = nnx.jit(lambda vae, video: vae.decode(vae.encode(video)[0]))
    right = {name: [] for name in world.ATTRIBUTES}
    psnrs = []
    for seed in range(24):
        scene = world.sample_scene(seed, "held_out")
        film = render(scene, 33)
        made = np.asarray(round_trip(vae, (film[None] / 127.5 - 1).astype(np.float32)))[0]
        made = np.round((made + 1) * 127.5).astype(np.uint8)
        psnrs.append(-10 * np.log10(np.mean(np.square((made - film.astype(float)) / 255))))
        verdict = judge(made)
        for name, found in right.items():
            if not (name == "speed" and scene.direction == "still"):
                found.append(getattr(scene, name) == getattr(verdict, name))
    accuracy = {name: np.mean(found) for name, found in right.items()}
    assert min(accuracy.values()) >= 0.93, accuracy
    assert np.mean(psnrs) > 29, psnrs
