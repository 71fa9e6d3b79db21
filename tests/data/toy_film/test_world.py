"""The laws of the world, its splits, and the renderer."""

import collections

import numpy as np
import pytest

from skyreels_jax.core.errors import UserError
from skyreels_jax.data.toy_film import world
from skyreels_jax.data.toy_film.panorama import strip_image
from skyreels_jax.data.toy_film.render import render, subject_alpha, subject_colour
from skyreels_jax.data.toy_film.world import Scene, centres, radii, sample_scene, zoom_scale

PLAIN = {
    "colour": "red",
    "shape": "ring",
    "shot_type": "medium_shot",
    "direction": "left",
    "speed": "fast",
    "camera_motion": "static",
    "environment": "city",
    "lighting": "day",
}


def scene(**changes) -> Scene:
    return Scene(**(PLAIN | changes))


def test_scenes_are_deterministic_and_cover_everything():
    scenes = [sample_scene(seed) for seed in range(400)]
    assert scenes == [sample_scene(seed) for seed in range(400)]
    for name, legal in world.ATTRIBUTES.items():
        counts = collections.Counter(getattr(s, name) for s in scenes)
        legal = (*legal, world.NO_SPEED) if name == "speed" else legal
        assert set(counts) == set(legal)
        assert min(counts.values()) > 400 / len(legal) / 2


@pytest.mark.parametrize("split", world.SPLITS)
def test_splits_never_share_a_tuple(split):
    for seed in range(60):
        drawn = sample_scene(seed, split)
        assert world.split_of(drawn) == split
        held_out = any(
            tuple(getattr(drawn, n) for n in names) in pairs
            for names, pairs in world.HELD_OUT_PAIRS.items()
        )
        assert held_out == (split == "held_out_combinations")


def test_about_a_tenth_is_held_out():
    scenes = [sample_scene(s, "train") for s in range(50)]
    changed = [
        Scene(
            **(world.attributes(s) | {"environment": e, "lighting": li, "camera_motion": "static"})
        )
        for s in scenes
        for e in world.ENVIRONMENTS
        for li in world.LIGHTINGS
    ]
    share = np.mean([world.split_of(s) == "held_out" for s in changed])
    assert 0.05 < share < 0.15


def test_33_frames_at_the_fast_speed_just_fit():
    path = centres(scene(), np.arange(33))
    np.testing.assert_allclose(path[:, 0], np.linspace(48, 16, 33))
    np.testing.assert_allclose(path[:, 1], 32)


@pytest.mark.parametrize("split", world.SPLITS)
def test_the_subject_stays_between_the_walls_for_ever(split):
    for seed in range(40):
        path = centres(sample_scene(seed, split), np.arange(300))
        assert path.min() >= 16 and path.max() <= 48


def test_no_film_of_33_frames_turns_back():
    for seed in range(60):
        drawn = sample_scene(seed)
        if drawn.direction in ("left", "right", "up", "down"):
            step = np.diff(centres(drawn, np.arange(33)), axis=0)
            speed = world.PIXELS_PER_FRAME[drawn.speed]
            np.testing.assert_allclose(np.hypot(*step.T), speed, atol=1e-9)


@pytest.mark.parametrize(("speed", "period"), [("slow", 32), ("fast", 16)])
def test_bounce_starts_low_and_has_its_period(speed, period):
    y = centres(scene(direction="bounce", speed=speed), np.arange(65))[:, 1]
    assert y[0] == y.max() == 42 and y.min() == 22
    np.testing.assert_allclose(y[: 65 - period], y[period:], atol=1e-9)


def test_zoom_returns_and_subject_follows_by_half():
    times = np.arange(65)
    scale = zoom_scale("zoom_in", times)
    np.testing.assert_allclose(scale[[0, 32, 64]], [1, 1.6, 1])
    np.testing.assert_allclose(zoom_scale("zoom_out", times)[[0, 32, 64]], [1.6, 1, 1.6])
    size = radii(scene(camera_motion="zoom_in"), times)
    np.testing.assert_allclose(size[32] / size[0], 1.6**0.5)
    np.testing.assert_allclose(size[16], 11)


def test_a_pan_moves_the_background_one_pixel_a_frame():
    film = render(scene(camera_motion="pan_right", direction="up", speed="slow"), 9)
    left, right = film[0, :, 8:20].astype(int), film[8, :, :12].astype(int)
    assert np.abs(left - right).max() <= 1


def test_render_shape_start_and_determinism():
    drawn = sample_scene(5)
    film = render(drawn, 17)
    assert film.shape == (17, 64, 64, 3) and film.dtype == np.uint8
    np.testing.assert_array_equal(film[9:], render(drawn, 8, start=9))
    large = render(drawn, 1, size=128).astype(float).reshape(64, 2, 64, 2, 3).mean((1, 3))
    assert np.abs(large - film[0]).mean() < 2.5


@pytest.mark.parametrize(
    ("shape", "area"), [("ring", 2.356), ("square", 3.098), ("triangle", 1.718)]
)
def test_shapes_have_their_area_and_sit_on_their_centre(shape, area):
    alpha = subject_alpha(shape, np.array([[30.0, 33.0]]), np.array([14.0]))[0]
    assert alpha.sum() == pytest.approx(area * 14**2, rel=0.02)
    rows, columns = np.nonzero(alpha > 0.5)
    assert (columns.min() + columns.max() + 1) / 2 == pytest.approx(30, abs=0.6)
    assert (rows.min() + rows.max() + 1) / 2 == pytest.approx(33, abs=0.6)


def test_subjects_stand_out_from_every_background():
    for environment in world.ENVIRONMENTS:
        for lighting in world.LIGHTINGS:
            strip = strip_image(environment, lighting).reshape(-1, 3).astype(float)
            for colour in world.COLOURS:
                gap = np.linalg.norm(strip - subject_colour(colour, lighting), axis=1).min()
                assert gap > 60, (environment, lighting, colour)


def test_backgrounds_are_distinct():
    means = [
        strip_image(e, li).astype(float).reshape(2, 32, 128, 3).mean((1, 2)).ravel()
        for e in world.ENVIRONMENTS
        for li in world.LIGHTINGS
    ]
    gaps = [np.linalg.norm(a - b) for i, a in enumerate(means) for b in means[:i]]
    assert min(gaps) > 20


@pytest.mark.parametrize(
    "changes", [{"colour": "mauve"}, {"direction": "still"}, {"speed": "none"}, {"lighting": "Day"}]
)
def test_illegal_scenes_say_what_is_legal(changes):
    with pytest.raises(UserError, match="is not one of"):
        scene(**changes)


def test_unknown_split_says_what_is_legal():
    with pytest.raises(UserError, match="train, held_out, held_out_combinations"):
        sample_scene(0, "test")
