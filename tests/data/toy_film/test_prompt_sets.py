"""Prompt sets: even over their attributes, inside their split, the same for ever."""

import collections
import itertools

import pytest

from skyreels_jax.core.errors import UserError
from skyreels_jax.data.toy_film.prompt_sets import SETS, moving_scenes, scene_set
from skyreels_jax.data.toy_film.world import sample_scene, split_of


@pytest.mark.parametrize(("name", "cells"), [("balanced", 15), ("motion", 10)])
def test_sets_are_even_and_of_their_split(name, cells):
    scenes = scene_set(name, 95, seed=4)
    assert {split_of(scene) for scene in scenes} == {"train"}
    counts = collections.Counter(tuple(getattr(s, n) for n in SETS[name]) for s in scenes)
    assert len(counts) == cells
    assert max(counts.values()) - min(counts.values()) <= 1
    assert len(set(scenes)) == 95


@pytest.mark.parametrize("name", SETS)
def test_nothing_stands_still(name):
    assert {scene.direction for scene in scene_set(name, 40)} == {
        *("left", "right", "up", "down", "bounce")
    }


def test_scenes_that_move_are_those_of_their_seeds():
    drawn = list(itertools.islice(moving_scenes(0, "held_out"), 5))
    assert [seed for seed, _ in drawn] == [3, 4, 5, 6, 9]  # 0 to 2, 7 and 8 stay still
    assert all(scene == sample_scene(seed, "held_out") for seed, scene in drawn)


def test_the_same_arguments_give_the_same_scenes():
    assert scene_set("motion", 30, seed=1) == scene_set("motion", 30, seed=1)
    assert scene_set("motion", 30, seed=1)[:10] == scene_set("motion", 10, seed=1)
    assert scene_set("motion", 30, seed=1) != scene_set("motion", 30, seed=2)


def test_two_sets_share_no_scene_whatever_their_seeds():
    for seeds in ((0, 0), (0, 1), (5, 0)):
        first, second = (set(scene_set(n, 96, seed=s)) for n, s in zip(SETS, seeds, strict=True))
        assert not first & second


def test_an_unknown_set():
    with pytest.raises(UserError, match="no prompt set 'x'; legal: balanced, motion"):
        scene_set("x", 1)
