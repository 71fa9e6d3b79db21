"""Films judged second by second: rendered ones are right throughout, drifting ones are caught."""

import dataclasses
import json

import numpy as np
import pytest

from skyreels_jax.core.errors import UserError
from skyreels_jax.data.toy_film import world
from skyreels_jax.data.toy_film.render import render, subject_alpha, subject_colour
from skyreels_jax.data.toy_film.world import Scene
from skyreels_jax.evals.drift import Drift, table
from skyreels_jax.evals.lasting import STRETCH, lasting
from skyreels_jax.evals.plots import plot_drift
from skyreels_jax.evals.seconds import SECOND, Judged, Second, judge_seconds, mean_right

SCENE = Scene(
    colour="green",
    shape="square",
    shot_type="medium_shot",
    direction="left",
    speed="fast",
    camera_motion="zoom_in",
    environment="city",
    lighting="day",
    jitter=(0.0, 3.0),
)


def chunks_of(film, size):
    return (film[i : i + size] for i in range(0, len(film), size))


def judged(scene, film):
    seconds = tuple(judge_seconds(chunks_of(film, 16)))
    return Judged(scene=scene, prompt="p", seed=0, seconds=seconds)


def test_ten_windows_of_the_world_are_right_throughout():
    """Turning at walls ten times, zooming in and out five: the hardest film there is."""
    drift = Drift(name="world", films=(judged(SCENE, render(SCENE, 330)),))
    assert drift.length == 27
    assert all(set(shares.values()) == {1.0} for shares in drift.adherence)
    assert drift.kept == 1.0 and drift.colour.max() < 0.5
    assert drift.drifted < 0.5 and np.abs(drift.brightness).max() < 8
    assert (drift.measure("presence") == 1).all() and drift.measure("consistency").min() > 0.7


def test_a_hue_that_shifts_is_caught_with_the_right_number():
    scene = dataclasses.replace(SCENE, camera_motion="static")
    frames, film = np.arange(72), render(scene, 72).astype(np.float32)
    alpha = subject_alpha(scene.shape, world.centres(scene, frames), world.radii(scene, frames))
    gap = subject_colour("cyan", "day") - subject_colour("green", "day")
    share = 0.4 * frames / 71
    film += alpha[..., None] * share[:, None, None, None] * gap
    film += 0.2 * frames[:, None, None, None]  # and it grows lighter
    film = np.clip(film + 0.5, 0, 255).astype(np.uint8)
    drift = Drift(name="drifting", films=(judged(scene, film),))
    levels = share.reshape(6, 12).mean(1) * np.abs(gap).max()
    lighter = (0.2 * frames).reshape(6, 12).mean(1)
    moved = (levels - levels[0]) + (lighter - lighter[0])
    assert drift.colour[0] == pytest.approx(100 / 255 * moved, abs=0.6)
    assert drift.drifted > 20  # blue has moved a quarter of its range
    expected = 100 / 255 * (lighter - lighter[0])
    assert drift.brightness[0, 0] == 0 and drift.brightness[0, -1] >= expected[-1]
    assert drift.brightness[0, -1] == pytest.approx(expected[-1], abs=2)
    assert "MISSED" in table([drift])


def test_chunks_do_not_matter_and_seconds_come_at_once():
    film = render(SCENE, 62)
    read = []

    def fives():
        for i in range(0, 62, 5):
            read.append(i)
            yield film[i : i + 5]

    seconds = judge_seconds(fives())
    first = next(seconds)
    assert read[-1] + 5 < STRETCH + 5 and first.index == 0
    assert np.array_equal(first.frame, film[6])
    assert first.frame.base is None  # it keeps no other frame in memory
    rest = [first, *seconds]
    whole = list(judge_seconds([film]))
    assert [s.index for s in rest] == [s.index for s in whole] == [0, 1, 2, 3, 4]
    for ours, theirs in zip(rest, whole, strict=True):
        assert ours.shown == theirs.shown and ours.consistency == theirs.consistency
        assert np.array_equal(ours.colour, theirs.colour)
        assert (ours.brightness, ours.flicker) == (theirs.brightness, theirs.flicker)


def test_films_of_less_than_a_second_are_refused():
    with pytest.raises(UserError, match="no whole second"):
        list(judge_seconds([render(SCENE, 11)]))
    assert list(judge_seconds([])) == []


def second(index, scene=SCENE, colour=(10.0, 200.0, 60.0), brightness=100.0, **shown):
    return Second(
        index=index,
        shown=lasting(scene) | shown,
        presence=1.0,
        flicker=0.5,
        consistency=0.9,
        colour=None if colour is None else np.array(colour),
        brightness=brightness,
        frame=np.zeros((64, 64, 3), np.uint8),
    )


@pytest.fixture
def drift():
    right = Judged(scene=SCENE, prompt="a", seed=0, seconds=(second(0), second(1)))
    wrong = (second(0), second(1, colour=None, shape="ring", brightness=49.0))
    return Drift(name="some", films=(right, Judged(scene=SCENE, prompt="b", seed=1, seconds=wrong)))


def test_the_numbers_of_a_drift(drift):
    assert drift.adherence[0]["mean"] == 1.0
    assert drift.adherence[1]["shape"] == 0.5
    assert drift.kept == pytest.approx(7.5 / 8)
    assert drift.drifted == 0  # of the film whose subject is seen
    summary = drift.summary()
    assert summary["kept"] == 0.9375 and summary["brightness_drift"] == 10.0
    assert summary["kept_target"] == 0.9 and summary["colour_drift_target"] == 5.0
    everything = {**summary, "curves": drift.curves(), "films": drift.records()}
    everything = json.loads(json.dumps(everything, allow_nan=False))
    assert everything["curves"]["colour_drift"] == [0.0, 0.0] and everything["colour_drift"] == 0
    # Without one film 1, without the other 7 / 8: their deviations, squared and added.
    assert drift.kept_error == pytest.approx((2 * (1 / 16) ** 2 / 2) ** 0.5)
    assert "0.938 met" in table([drift]) and SECOND == 12


def test_a_subject_that_is_never_seen_has_no_colour():
    film = Judged(scene=SCENE, prompt="a", seed=0, seconds=(second(0, colour=None), second(1)))
    drift = Drift(name="blind", films=(film,))
    assert np.isnan(drift.drifted) and drift.summary()["colour_drift"] is None
    assert "none MISSED" in table([drift])


def test_what_cannot_be_told_is_left_out():
    still = dataclasses.replace(SCENE, direction="still", speed="none")
    film = Judged(scene=still, prompt="a", seed=0, seconds=(second(0, still),))
    shares = mean_right(film.right())
    assert np.isnan(shares["speed"]) and shares["mean"] == 1.0


def test_the_plot(drift, tmp_path):
    import imageio.v3 as iio

    path = tmp_path / "drift.png"
    plot_drift(path, [drift, dataclasses.replace(drift, name="other")], drift, title="Films")
    image = iio.imread(path)
    assert image.shape[1] == 1660 and image.std() > 10
