"""Films that turn: one scene, then the other from where the first was, without a jump."""

import dataclasses

import numpy as np
import pytest

from skyreels_jax.core.errors import UserError
from skyreels_jax.data.toy_film import world
from skyreels_jax.data.toy_film.render import render
from skyreels_jax.data.toy_film.toy_film_dataset_builder import toy_film
from skyreels_jax.data.toy_film.turns import CHANGES, EASE, render_turn, sample_turn, turned
from skyreels_jax.evals.lasting import judge_stretch, right

FRAMES = 65


def turns(count=60):
    return [sample_turn(seed, FRAMES, share=1.0) for seed in range(count)]


def test_turns_are_of_training_scenes_and_change_how_things_move():
    for seed, turn in enumerate(turns()):
        assert turn.before == world.sample_scene(seed) and turn.frame % 4 == 1
        assert world.split_of(turn.after) == "train" and turn.after != turn.before
        same = {name: getattr(turn.before, name) for name in CHANGES}
        assert dataclasses.replace(turn.after, **same) == turn.before
    assert {turn.frame for turn in turns(200)} == set(range(1, 54, 4))  # latents 1 to 14 of 16
    some = [sample_turn(seed, FRAMES, share=0.3) for seed in range(400)]
    assert 0.23 < np.mean([turn is not None for turn in some]) < 0.37
    assert sample_turn(3, 9, share=1.0).frame == 1 and sample_turn(3, 9, share=0.0) is None


def test_nothing_jumps():
    """Nothing moves faster than within a scene, or than a turn's easing takes it over the frame."""
    for turn in turns():
        paths = turned(turn, np.arange(FRAMES))
        before = world.paths(turn.before, np.arange(turn.frame))
        for ours, theirs in zip(paths, before, strict=True):
            np.testing.assert_allclose(ours[: turn.frame], theirs, atol=1e-6)
        assert np.abs(np.diff(paths.centre, axis=0)).max() < 6.0
        assert np.abs(np.diff(paths.shift)).max() <= 1.0
        assert np.abs(np.diff(np.log(paths.scale))).max() < np.log(1.6) * 1.8 / EASE
        steps = np.abs(np.diff(paths.centre, axis=0))[turn.frame + EASE :]
        assert steps.max(initial=0) < 3.95  # the bounce at its fastest


def test_the_second_scene_is_what_its_caption_says():
    """By the judge of any moment, from the end of the easing on."""
    found = {name: [] for name in world.ATTRIBUTES}
    for seed in range(24):
        turn = dataclasses.replace(sample_turn(seed, FRAMES, share=1.0), frame=17)
        film = render_turn(turn, 17 + EASE + 40)
        np.testing.assert_array_equal(film[:17], render(turn.before, 17))
        for name, is_right in right(turn.after, judge_stretch(film[17 + EASE :]).shown).items():
            found[name].append(is_right)
    assert all(np.mean(values) > 0.9 for values in found.values()), found


def test_the_data_set_tells_where_its_films_turn(tmp_path):
    made = toy_film(tmp_path, num_clips=8, num_frames=17, turns=0.5)
    assert made.builder_config.name == "8x17x4-0-turns0.5"
    made.download_and_prepare()
    clips = list(made.as_data_source(split="train"))
    assert 0 < sum(int(clip["turn"]) > 0 for clip in clips) < 8
    for clip in clips:
        turn = sample_turn(int(clip["seed"]), 17, share=0.5)
        assert int(clip["turn"]) == (turn.frame if turn else 0)
        scene = turn.after if turn else world.sample_scene(int(clip["seed"]))
        assert {n: clip[n].decode() for n in world.ATTRIBUTES} == world.attributes(scene)
        film = render_turn(turn, 17) if turn else render(scene, 17)
        np.testing.assert_array_equal(clip["video"], film)
    assert all(int(clip["turn"]) == 0 for clip in made.as_data_source(split="held_out"))
    with pytest.raises(UserError, match="share of films, 0 to 1"):
        toy_film(tmp_path, turns=1.5)
