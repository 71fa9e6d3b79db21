"""Stories: scenes that change as they should, parts judged by themselves, and the ratio."""

import dataclasses
import itertools
import json

import numpy as np
import pytest

from skyreels_jax.core.errors import UserError
from skyreels_jax.data.toy_film import world
from skyreels_jax.data.toy_film.render import render
from skyreels_jax.data.toy_film.world import attributes, sample_scene, split_of
from skyreels_jax.evals.lasting import lasting
from skyreels_jax.evals.plots import plot_schedules, plot_stories
from skyreels_jax.evals.schedules import Schedule, table
from skyreels_jax.evals.seconds import Judged, Second, judge_seconds
from skyreels_jax.evals.story import (
    CHANGES,
    StoryReport,
    check_changes,
    group_stories,
    judge_segments,
    make_stories,
)


@pytest.mark.parametrize("changes", [CHANGES, ("lighting",), tuple(world.ATTRIBUTES)])
@pytest.mark.parametrize("split", ["held_out", "held_out_combinations"])
def test_all_of_the_changes_can_be_told_and_nothing_else_changes(changes, split):
    stories = make_stories(split, 5, seed=3, changes=changes)
    assert stories == make_stories(split, 5, seed=3, changes=changes)
    assert len(set(stories)) == 5
    for story in stories:
        assert len(story) == 3 and {split_of(scene) for scene in story} == {split}
        for before, after in itertools.pairwise(story):
            ours, theirs = lasting(before), lasting(after)
            assert {n for n in ours if ours[n] != theirs[n]} == set(changes)
            kept = set(world.ATTRIBUTES) - set(changes)
            assert all(attributes(before)[n] == attributes(after)[n] for n in kept)


def test_impossible_and_unknown_changes():
    assert check_changes("all") == tuple(world.ATTRIBUTES)
    assert check_changes("speed, direction") == ("speed", "direction")
    with pytest.raises(UserError, match="did you mean 'lighting'"):
        check_changes("lightning")
    scene = sample_scene(0)
    assert len(group_stories([scene] * 9)) == 3
    for count in (0, 4):
        with pytest.raises(UserError, match=f"{count} captions .* 3 lines for each"):
            group_stories([scene] * count)


def test_parts_are_judged_without_the_window_that_changes():
    first, then, _ = make_stories("held_out", 1)[0]
    mixed = np.zeros((16, 64, 64, 3), np.uint8)  # nothing of it may be judged
    one, two = render(first, 40), render(then, 40, start=56)
    chunks = [(0, one[:33]), (0, one[33:]), (1, mixed[:12]), (1, mixed[12:]), (1, two)]
    (a, ours), (b, theirs) = judge_segments(iter(chunks), left_out=16)
    assert (a, b, len(ours), len(theirs)) == (0, 1, 3, 3)
    assert all(s.shown == lasting(first) for s in ours)
    assert all(s.shown == lasting(then) and s.presence == 1 for s in theirs)
    halfway = [(0, one), (1, np.concatenate([mixed, two]))]
    assert [s.shown for s in dict(judge_segments(halfway, left_out=16))[1]] == [
        s.shown for s in judge_seconds([two])
    ]


def part(scene, shown):
    second = Second(
        index=0,
        shown=lasting(shown),
        presence=1.0,
        flicker=1.0,
        consistency=0.5,
        colour=None,
        brightness=1.0,
        frame=np.zeros((64, 64, 3), np.uint8),
    )
    return Judged(scene=scene, prompt="p", seed=0, seconds=(second, second))


@pytest.fixture
def report():
    """The second part goes on as the first did, the third does as it is told."""
    scenes = next(s for s in make_stories("held_out", 9) if all(x.speed != "none" for x in s))
    shown = (scenes[0], scenes[0], scenes[2])
    told = tuple(part(scene, film) for scene, film in zip(scenes, shown, strict=True))
    clips = tuple(part(scene, scene) for scene in scenes)
    return StoryReport(name="latents", stories=(told, told), clips=(clips, clips))


def test_the_numbers_of_stories(report):
    assert report.changes == CHANGES
    assert [report.kept(i) for i in range(3)] == pytest.approx([1.0, 5 / 8, 1.0])
    assert report.kept(names=CHANGES) == pytest.approx(2 / 3)
    assert report.adherence(1)["colour"] == 1 and report.adherence(1)["direction"] == 0
    assert report.single()["mean"] == 1 and "MISSED" in report.table()
    text = json.dumps({**report.summary(), "films": report.records()}, allow_nan=False)
    assert json.loads(text)["kept_by_segment"] == [1.0, 0.625, 1.0]
    good = dataclasses.replace(report, stories=report.clips)
    assert good.kept() == 1.0 and "0.80 of clips: met" in good.table()


def test_stories_in_which_nothing_can_be_told_to_change(report):
    same = (report.clips[0][:1] * 3,)
    dull = dataclasses.replace(report, stories=same, clips=same)
    assert dull.changes == () and dull.summary()["kept_of_changes"] is None


@pytest.fixture
def schedule(report):
    films = (report.stories[0][0], report.stories[0][1])
    return Schedule(
        name="synchronous", model="tiny", films=films, took=(90.0, 5.0), runs=(50, 50), lasts=2.0
    )


def test_the_cost_of_a_schedule(schedule):
    assert schedule.compute == 2.5  # the first film, which compiles, does not count
    assert dataclasses.replace(schedule, took=(90.0,)).compute == 45.0
    assert schedule.model_runs == 25.0
    assert schedule.adherence["direction"] == 0.5 and schedule.measure("consistency") == 0.5
    assert json.loads(json.dumps(schedule.summary()))["compute_per_second"] == 2.5
    assert table([schedule]).splitlines()[1].split()[-2:] == ["2.50", "25.0"]


def test_the_plots(report, schedule, tmp_path):
    import imageio.v3 as iio

    plot_stories(tmp_path / "story.png", [report, report], title="Stories")
    plot_schedules(tmp_path / "schedules.png", [schedule, schedule], title="Schedules")
    for name in ("story", "schedules"):
        image = iio.imread(tmp_path / f"{name}.png")
        assert image.shape[1] == 1660 and image.std() > 10
