"""What a stretch from anywhere in a film shows, on rendered films of known truth."""

import dataclasses

import numpy as np
import pytest
from scipy import ndimage

from skyreels_jax.data.toy_film import world
from skyreels_jax.data.toy_film.render import background, render
from skyreels_jax.data.toy_film.world import SPLITS, sample_scene
from skyreels_jax.evals.judge import UNSEEN
from skyreels_jax.evals.lasting import LASTING, STRETCH, judge_stretch, lasting, right
from skyreels_jax.evals.motion import judge_lasting_motion


def spoil(film, seed):
    """Blurs in time and space and adds noise: about 25 dB."""
    soft = ndimage.gaussian_filter(film.astype(np.float32), (0.7, 1.2, 1.2, 0))
    noise = np.random.default_rng(seed).normal(0, 8, film.shape)
    return np.clip(soft + noise, 0, 255).astype(np.uint8)


@pytest.mark.parametrize("spoilt", [False, True])
def test_stretches_from_anywhere_are_told(spoilt):
    rng, outcomes = np.random.default_rng(5), []
    for i in range(15):
        scene = sample_scene(5_000_000 + i, SPLITS[i % 3])
        film = render(scene, STRETCH, start=int(rng.integers(0, 5000)))
        outcomes += right(scene, judge_stretch(spoil(film, i) if spoilt else film).shown).values()
    assert np.mean(outcomes) == 1.0


def test_what_lasts():
    scene = sample_scene(0)
    moved = dataclasses.replace(scene, direction="left", speed="fast", camera_motion="zoom_out")
    assert lasting(moved)["direction"] == "horizontal" and lasting(moved)["camera_motion"] == "zoom"
    assert LASTING["direction"] == ("horizontal", "vertical", "still", "bounce")
    assert LASTING["camera_motion"] == ("static", "pan_left", "pan_right", "zoom")
    assert LASTING["colour"] == world.COLOURS
    still = dataclasses.replace(scene, direction="still", speed="none")
    assert "speed" not in right(still, lasting(still))


@pytest.mark.parametrize("rate", [0.96, 1.05])
def test_no_law_knows_when_it_began(rate):
    """A film that keeps time badly shows the same, however late."""
    clock = np.round(rate * (np.arange(STRETCH) + 300)).astype(int)
    for seed in range(40):
        scene = sample_scene(seed)
        track = world.centres(scene, clock)
        wanted = lasting(scene)
        assert judge_lasting_motion(track)[:2] == (wanted["direction"], wanted["speed"]), scene


def test_gaps_in_the_track_are_bridged():
    scene = dataclasses.replace(sample_scene(0), direction="bounce", speed="fast")
    track = world.centres(scene, np.arange(200, 233))
    track[5:12] = np.nan
    assert judge_lasting_motion(track)[:2] == ("bounce", "fast")


def test_a_stretch_without_subject_is_unseen():
    scene = sample_scene(1)
    frames = np.round(background(scene, world.paths(scene, np.arange(STRETCH)))).astype(np.uint8)
    stretch = judge_stretch(frames)
    assert stretch.shown["colour"] == stretch.shown["speed"] == UNSEEN
    assert stretch.shown["environment"] == scene.environment
    assert stretch.presence == stretch.consistency == 0 and not stretch.inside.any()
