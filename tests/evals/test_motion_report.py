"""Errors of motion on films whose faults are known."""

import dataclasses
import json

import numpy as np
import pytest

from skyreels_jax.data.toy_film.render import render
from skyreels_jax.data.toy_film.world import NO_SPEED, attributes, sample_scene
from skyreels_jax.evals import motion_report
from skyreels_jax.evals.intervals import bootstrap
from skyreels_jax.evals.judge import judge
from skyreels_jax.evals.motion_plots import plot_motion
from skyreels_jax.evals.motion_report import NAMES, MotionReport, change, table, verdict
from skyreels_jax.evals.suite import Report, Sample, evaluate

CAPTIONS, SEEDS = 12, 2
SCENES = [sample_scene(seed) for seed in range(CAPTIONS)]


@pytest.fixture(scope="module")
def verdict_of():
    """A verdict with everything in it but attributes."""
    found = judge(render(sample_scene(0), 5))
    return dataclasses.replace(found, track_error=0.0, outline=1.0, consistency=0.9, quality=30.0)


@pytest.fixture
def motion(verdict_of):
    """Makes a setting of which `wrong(caption, seed)` names what its films do wrong."""

    def make(name, wrong):
        samples = []
        for number in range(CAPTIONS * SEEDS):
            seed, caption = divmod(number, CAPTIONS)
            scene = SCENES[caption]
            found = dataclasses.replace(
                verdict_of, **attributes(scene) | wrong(scene, caption, seed)
            )
            frames = np.zeros((1, 1, 1, 3), np.uint8)
            samples.append(
                Sample(scene=scene, prompt="", seed=number, frames=frames, verdict=found)
            )
        report = Report(samples=tuple(samples))
        return MotionReport(name=name, captions=CAPTIONS, report=report)

    return make


def turned(scene, caption, seed):
    """The wrong way with one seed of every second caption; late in all of them."""
    late = {"track_error": float(np.log(2))}
    if caption % 2 or seed:
        return late
    return late | {"direction": next(d for d in ("left", "right") if d != scene.direction)}


def test_each_error_by_itself(motion):
    found = motion("a", turned).summary()
    assert list(found) == ["films", *NAMES] and found["films"] == CAPTIONS * SEEDS
    assert found["direction"]["value"] == 0.25 and found["track"]["value"] == 0.5
    assert found["speed"]["value"] == found["outline"]["value"] == 0
    assert found["motion"]["value"] == pytest.approx(0.75 / 4, abs=1e-4)
    assert found["adherence"]["value"] == 1 and found["quality"]["value"] == 30
    assert found["direction"]["low"] < 0.25 < found["direction"]["high"]
    json.dumps(found, allow_nan=False)


def test_a_still_subject_has_no_speed(motion):
    def hasty(scene, caption, seed):
        return {"speed": "fast" if scene.speed in ("slow", NO_SPEED) else "slow"}

    assert any(scene.speed == NO_SPEED for scene in SCENES)
    assert motion("a", hasty).summary()["speed"]["value"] == 1


def test_seeds_of_a_caption_are_drawn_together(motion):
    # Both seeds of half the captions: half as many captions as films would make it seem.
    def together(scene, caption, seed):
        return {"outline": 0.0 if caption % 2 else 1.0}

    found = motion("a", together).estimate("outline")
    alone = bootstrap(lambda rows: (np.arange(CAPTIONS) % 2)[rows].mean(-1), CAPTIONS)
    assert (found.value, found.low, found.high) == (alone.value, alone.low, alone.high)


def test_what_changed_and_which_targets_are_met(motion):
    before = motion("before", turned)
    after = motion("after", lambda s, c, n: turned(s, c, n) if c % 3 else {})
    found = verdict(before, after)
    old, new = (one.means(np.arange(CAPTIONS))[0] for one in (before, after))
    assert found["change"]["motion"]["value"] == pytest.approx(100 * (new / old - 1), abs=0.01)
    assert found["change"]["motion"]["low"] < found["change"]["motion"]["high"] < 0
    assert found["change"]["speed"] == {"value": None, "low": None, "high": None}  # of no errors
    assert found["change"]["quality"]["value"] == 0 and found["met"]
    json.dumps(found, allow_nan=False)

    def costly(scene, caption, seed):
        return {"consistency": 0.88, "quality": 29.5}

    lower = verdict(before, motion("other", costly))
    assert lower["change"]["consistency"]["value"] == pytest.approx(-2)
    assert lower["change"]["quality"]["value"] == pytest.approx(-0.5)
    expected = {"motion": True, "adherence": True, "consistency": False, "quality": True}
    assert lower["targets"] == expected and not lower["met"]
    same = change(before, before, "motion")
    assert (same.value, same.low, same.high) == (0, 0, 0)
    assert not verdict(before, before)["targets"]["motion"]


def test_the_table_says_all(motion):
    before, after = motion("before", turned), motion("after", lambda *_: {})
    lines = table([before, after]).splitlines()
    assert lines[0].split() == ["before", "after"]
    assert lines[1].split() == ["errors", "of", "motion", "0.1875", "0.0000"]
    assert lines[10].startswith(f"{CAPTIONS} captions, {SEEDS} seeds")
    assert lines[-1].endswith(": met") and any("uneven track" in line for line in lines)
    assert "missed (motion)" in table([before, before])
    assert len(table([before]).splitlines()) == 11


def test_the_plot_shows_every_number(motion, tmp_path):
    settings = [motion("before", turned), motion("after", lambda *_: {})]
    plot_motion(tmp_path / "motion.png", settings, headline="Motion")
    import imageio.v3 as iio

    assert iio.imread(tmp_path / "motion.png").shape[1] == 1660


def test_rounds_are_the_same_captions_from_other_noise():
    made = []

    def films(prompts, seeds):
        made.extend(zip(prompts, seeds, strict=True))
        return (render(SCENES[n % 2], 5) for n in range(len(prompts)))

    report = evaluate(films, SCENES[:2], seed=7, rounds=2, keep=1)
    prompts, seeds = zip(*made, strict=True)
    assert prompts[:2] == prompts[2:] and prompts[0] != prompts[1]
    assert seeds == (7, 8, 9, 10)
    assert [len(sample.frames) for sample in report.samples] == [5, 0, 0, 0]
    assert [sample.scene for sample in report.samples] == SCENES[:2] * 2
    once = MotionReport(name="a", captions=2, report=report).means(np.arange(2))
    assert once[NAMES.index("adherence")] == 1 and once[NAMES.index("outline")] < 0.1


def test_films_that_have_no_speed(motion):
    still = motion("a", lambda *_: {})
    kept = [sample for sample in still.report.samples if sample.scene.speed == NO_SPEED]
    report = Report(samples=tuple(kept))
    found = MotionReport(name="a", captions=len(kept) // SEEDS, report=report)
    assert found.summary()["speed"]["value"] is None and found.summary()["motion"]["value"] == 0
    assert ["wrong", "speed", "none"] in [line.split() for line in table([found]).splitlines()]


def test_names_have_units():
    assert [motion_report.unit(name) for name in ("motion", "adherence", "quality")] == [
        "%",
        "points",
        "dB",
    ]
