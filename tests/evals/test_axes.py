"""The four axes on films of known truth."""

import dataclasses
import itertools

import numpy as np
import pytest

from skyreels_jax.data.toy_film.render import render
from skyreels_jax.data.toy_film.world import sample_scene
from skyreels_jax.evals.axes import AXES, score_axes

MOVES = ("right", "fast", "static", "day")
SCENE = next(
    scene
    for scene in map(sample_scene, itertools.count())
    if (scene.direction, scene.speed, scene.camera_motion, scene.lighting) == MOVES
)


@pytest.fixture(scope="module")
def film():
    return render(SCENE, 17)


def test_a_rendered_film_is_nearly_perfect(film):
    scores = score_axes(film, SCENE)
    assert set(scores) == set(AXES)
    assert scores["motion"] > 0.95 and scores["adherence"] == 1
    assert scores["consistency"] > 0.85 and scores["quality"] > 25


def test_wrong_motion_moves_the_motion_axis_alone(film):
    right, backwards = score_axes(film, SCENE), score_axes(film[::-1], SCENE)
    swapped = film.copy()
    swapped[1:-1:2], swapped[2::2] = film[2::2], film[1:-1:2]
    stuttering = score_axes(swapped, SCENE)
    assert backwards["motion"] == pytest.approx(right["motion"] - 1 / 4, abs=0.01)
    assert stuttering["motion"] < right["motion"] - 0.1
    for wrong in (backwards, stuttering):
        for axis in ("adherence", "consistency"):
            assert wrong[axis] == pytest.approx(right[axis], abs=1e-3)


def test_a_wrong_picture_moves_adherence_alone(film):
    other = "red" if SCENE.colour != "red" else "blue"
    scores = score_axes(film, dataclasses.replace(SCENE, colour=other, lighting="night"))
    assert scores["motion"] > 0.95 and scores["adherence"] == pytest.approx(4 / 6)


def test_noise_shows_no_motion():
    noise = np.random.default_rng(0).integers(0, 256, (5, 64, 64, 3)).astype(np.uint8)
    scores = score_axes(noise, SCENE)
    assert scores["motion"] < 0.5 and all(np.isfinite(value) for value in scores.values())
