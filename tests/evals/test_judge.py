"""The judge against films of known truth, clean and spoilt."""

import dataclasses

import numpy as np
import pytest
from scipy import ndimage

from skyreels_jax.core.errors import UserError
from skyreels_jax.data.toy_film import world
from skyreels_jax.data.toy_film.render import render
from skyreels_jax.data.toy_film.world import SPLITS, sample_scene
from skyreels_jax.evals.judge import UNSEEN, judge
from skyreels_jax.evals.motion import judge_motion


def spoil(film, seed):
    """Blurs in time and space and adds noise: about 25 dB."""
    soft = ndimage.gaussian_filter(film.astype(np.float32), (0.7, 1.2, 1.2, 0))
    noise = np.random.default_rng(seed).normal(0, 8, film.shape)
    return np.clip(soft + noise, 0, 255).astype(np.uint8)


@pytest.mark.parametrize(
    ("frames", "spoilt", "least"),
    [(17, False, 0.97), (33, False, 0.97), (33, True, 0.93), (65, False, 0.97)],
)
def test_accuracy_on_known_truth(frames, spoilt, least):
    right = {name: [] for name in world.ATTRIBUTES}
    for i in range(36):
        scene = sample_scene(2_000_000 + i, SPLITS[i % 3])
        film = render(scene, frames)
        verdict = judge(spoil(film, i) if spoilt else film)
        for name, found in right.items():
            if not (name == "speed" and scene.direction == "still"):
                found.append(getattr(scene, name) == getattr(verdict, name))
    accuracy = {name: np.mean(found) for name, found in right.items()}
    assert min(accuracy.values()) >= least, accuracy


def test_windows_of_a_long_film_are_judged_against_the_same_law():
    for seed in range(12):
        scene = sample_scene(seed)
        verdict = judge(render(scene, 33, start=32), start=32)
        shown = {name: getattr(verdict, name) for name in world.ATTRIBUTES}
        assert shown == world.attributes(scene)


def test_measures_tell_good_from_bad():
    scene = dataclasses.replace(sample_scene(3), camera_motion="static")
    film = render(scene, 33)
    good = judge(film)
    assert good.presence == 1 and good.consistency > 0.85 and good.quality > 35
    assert good.flicker < 0.5 and good.track_error < 0.3
    blinking = film.copy()
    blinking[::2] = blinking[::2] * 0.8
    assert judge(blinking).flicker > 10
    assert judge(spoil(film, 0)).quality < 31
    shuffled = film[np.random.default_rng(0).permutation(33)]
    assert judge(shuffled).track_error > 4 * good.track_error + 1
    cut = np.concatenate([film[:16], render(sample_scene(4), 17)])
    assert judge(cut).consistency < good.consistency - 0.2


def test_a_film_without_subject_is_unseen():
    scene = dataclasses.replace(
        sample_scene(1), jitter=(500.0, 0.0), direction="still", speed="none"
    )
    verdict = judge(render(scene, 17))
    assert verdict.colour == verdict.shape == verdict.direction == UNSEEN
    assert verdict.presence == verdict.consistency == 0
    assert verdict.environment == scene.environment


def test_larger_films_are_judged_at_world_size():
    scene = sample_scene(8)
    verdict = judge(render(scene, 17, size=128))
    assert {n: getattr(verdict, n) for n in world.ATTRIBUTES} == world.attributes(scene)


def test_other_sizes_are_refused():
    for shape in ((9, 64, 96, 3), (4, 64, 64, 3), (9, 32, 32, 3)):
        with pytest.raises(UserError, match="multiple of 64"):
            judge(np.zeros(shape, np.uint8))


def test_gaps_in_the_track_are_bridged():
    scene = dataclasses.replace(sample_scene(0), direction="up", speed="slow", jitter=(0.0, 0.0))
    track = world.centres(scene, np.arange(33))
    track[5:12] = np.nan
    assert judge_motion(track, np.arange(33))[:2] == ("up", "slow")
