"""Distorted twins: shapes, seeds, strengths, and what each does to the time of a clip."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skyreels_jax.core.errors import UserError
from skyreels_jax.data.preferences.distortions import DISTORTIONS, distort
from skyreels_jax.data.preferences.warp import at_times, displaced
from skyreels_jax.data.toy_film.render import render
from skyreels_jax.data.toy_film.world import Scene, sample_scene

STRENGTHS = (0.1, 0.25, 0.5, 0.75, 1.0)
RANDOM = ("jitter", "detail_corruption", "shape_morphing")
SCENE = {
    **{"colour": "red", "shape": "square", "shot_type": "medium_shot", "speed": "fast"},
    **{"camera_motion": "static", "environment": "meadow", "lighting": "day"},
}


@pytest.fixture(scope="module")
def clips():
    """Films of every direction: 17 frames, in which none of them comes back to where it was."""
    scenes = [Scene(direction=d, **SCENE) for d in ("left", "right", "up", "down")]
    return [render(scene, 17) for scene in scenes]


def counting(frames=9):
    """A clip whose frames hold their number."""
    return (
        np.arange(frames, dtype=np.uint8)[:, None, None, None]
        .repeat(4, 1)
        .repeat(6, 2)
        .repeat(3, 3)
    )


def order(kind, strength, frames=9):
    return distort(kind, counting(frames), strength=strength, seed=0)[:, 0, 0, 0].tolist()


@pytest.mark.parametrize("kind", DISTORTIONS)
def test_twins_keep_the_shape_and_hang_on_the_seed_alone(kind, clips):
    clip = clips[0]
    before = clip.copy()
    made = [distort(kind, clip, strength=0.7, seed=seed) for seed in (3, 3, 4)]
    np.testing.assert_array_equal(clip, before)
    assert made[0].shape == clip.shape and made[0].dtype == np.uint8
    np.testing.assert_array_equal(made[0], made[1])
    assert np.array_equal(made[0], made[2]) == (kind not in RANDOM)
    assert not np.array_equal(made[0], clip)


@pytest.mark.parametrize("kind", DISTORTIONS)
def test_stronger_is_further_from_the_original(kind, clips):
    gaps = np.array(
        [
            [
                np.abs(distort(kind, clip, strength=s, seed=i).astype(float) - clip).mean()
                for s in STRENGTHS
            ]
            for i, clip in enumerate(clips)
        ]
    )
    assert (np.diff(gaps.mean(0)) > 0).all(), gaps.mean(0)
    assert gaps[:, -1].min() > 0.5


@settings(max_examples=40, deadline=None)
@given(
    kind=st.sampled_from(list(DISTORTIONS)),
    strength=st.floats(1e-3, 1.0),
    size=st.tuples(st.integers(2, 6), st.integers(1, 9), st.integers(1, 9)),
    seed=st.integers(0, 2**32 - 1),
)
def test_any_clip_of_two_frames_or_more_will_do(kind, strength, size, seed):
    clip = np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)
    made = distort(kind, clip, strength=strength, seed=seed)
    assert made.shape == clip.shape and made.dtype == np.uint8
    assert made.min() >= clip.min() and made.max() <= clip.max()


def test_what_happens_in_time():
    assert order("time_reversal", 1.0) == [8, 7, 6, 5, 4, 3, 2, 1, 0]
    assert order("time_reversal", 0.5) == [4, 3, 2, 1, 0, 1, 2, 3, 4]
    assert order("too_fast", 1.0) == [0, 2, 4, 6, 8, 6, 4, 2, 0]
    assert order("too_slow", 1.0) == [0, 0, 0, 0, 0, 1, 1, 1, 1]
    assert order("freeze", 1.0) == [0] * 9
    assert order("freeze", 0.5) == [0, 1, 2, 3, 4, 4, 4, 4, 4]
    assert order("stutter", 1 / 7) == [0, 0, 2, 2, 4, 4, 6, 6, 8]
    assert order("stutter", 1.0) == [0] * 8 + [8]


def test_the_picture_itself_stays_where_only_time_changes(clips):
    for kind in ("time_reversal", "freeze", "stutter"):
        twin = distort(kind, clips[0], strength=0.5, seed=0)
        assert all((frame == clips[0]).all((1, 2, 3)).any() for frame in twin), kind


def test_morphing_begins_with_the_clip_and_damage_is_local(clips):
    morphed = distort("shape_morphing", clips[0], strength=1.0, seed=0)
    np.testing.assert_array_equal(morphed[0], clips[0][0])
    damaged = distort("detail_corruption", clips[0], strength=0.5, seed=0)
    touched = (damaged != clips[0]).any(-1).mean()
    assert 0.02 < touched <= 0.25


def test_a_weaker_damage_is_part_of_a_stronger_one(clips):
    weak, strong = (
        (distort("detail_corruption", clips[1], strength=s, seed=5) != clips[1]).any(-1)
        for s in (0.4, 0.8)
    )
    assert not (weak & ~strong).any() and strong.sum() > weak.sum()


def test_looking_up_between_frames_and_pixels():
    clip = counting(3) * 10
    np.testing.assert_array_equal(
        at_times(clip, np.array([0.5, 2.0, 2.5]))[:, 0, 0, 0], [5, 20, 15]
    )
    picture = np.arange(6, dtype=np.uint8).reshape(1, 2, 3, 1).repeat(3, 3) * 10
    moved = displaced(picture, np.array([0.5, 1.0]).reshape(1, 1, 1, 2))
    np.testing.assert_array_equal(moved[0, :, :, 0], [[25 + 0, 35, 35], [40, 50, 50]])


@pytest.mark.parametrize(
    ("kind", "strength", "frames", "complaint"),
    [
        ("reversal", 0.5, 9, "no distortion 'reversal'; did you mean 'time_reversal'"),
        ("jitter", 0.0, 9, "strength 0 is out of range; legal: more than 0, at most 1"),
        ("jitter", float("nan"), 9, "out of range"),
        ("freeze", 1.0, 1, "legal: 2 frames and more"),
    ],
)
def test_bad_input(kind, strength, frames, complaint):
    with pytest.raises(UserError, match=complaint):
        distort(kind, counting(frames), strength=strength, seed=0)


def test_every_distortion_says_what_it_models():
    assert all("Models " in made.__doc__ for made in DISTORTIONS.values())


def test_all_scenes_of_the_world_can_be_distorted():
    clip = render(sample_scene(0), 9)
    for kind in DISTORTIONS:
        distort(kind, clip, strength=1.0, seed=0)
