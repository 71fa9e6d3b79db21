"""The benchmark suite and contact sheets, with a renderer in place of a model."""

import json

import numpy as np
import pytest

from skyreels_jax.core.errors import UserError
from skyreels_jax.data.toy_film import world
from skyreels_jax.data.toy_film.captions import structured
from skyreels_jax.data.toy_film.render import background, render
from skyreels_jax.data.toy_film.world import Scene, attributes, sample_scene
from skyreels_jax.evals.judge import UNSEEN
from skyreels_jax.evals.sheet import contact_sheet
from skyreels_jax.evals.suite import evaluate, load_scenes


@pytest.fixture(scope="module")
def scenes():
    return [sample_scene(seed, "held_out") for seed in range(6)]


def test_a_perfect_model_scores_one(scenes):
    seen = []

    def perfect(prompts, seeds):
        assert len(prompts) == len(set(prompts)) == 6 and seeds == [3, 4, 5, 6, 7, 8]
        return (render(scene, 17) for scene in scenes)

    report = evaluate(perfect, scenes, seed=3, progress=seen.append)
    assert set(report.adherence) == {*world.ATTRIBUTES, "mean"}
    assert set(report.adherence.values()) == {1.0} and report.all_right == 1.0
    assert len(seen) == 6 and "mean" in report.table()
    text = json.dumps({**report.summary(), "films": report.records()}, allow_nan=False)
    assert json.loads(text)["adherence"]["mean"] == 1.0


def test_a_model_that_ignores_light_scores_accordingly(scenes):
    def dark(prompts, seeds):
        for scene in scenes:
            yield render(Scene(**(attributes(scene) | {"lighting": "night"})), 17)

    report = evaluate(dark, scenes)
    nights = np.mean([scene.lighting == "night" for scene in scenes])
    assert report.adherence["lighting"] == pytest.approx(nights)
    assert report.adherence["colour"] == 1.0
    assert report.adherence["mean"] == pytest.approx((7 + nights) / 8)


def test_still_subjects_have_no_speed_to_judge():
    values = attributes(sample_scene(0)) | {"direction": "still", "speed": "none"}
    scene = Scene(**values)
    report = evaluate(lambda prompts, seeds: [render(scene, 17)], [scene])
    assert report.outcomes("speed") == []
    assert report.summary()["adherence"]["speed"] is None
    assert report.adherence["mean"] == 1.0


def test_films_without_a_subject_have_no_track_error():
    scene = sample_scene(0)
    empty = np.round(background(scene, world.paths(scene, np.arange(17)))).astype(np.uint8)
    report = evaluate(lambda prompts, seeds: [empty], [scene])
    assert report.samples[0].verdict.colour == UNSEEN
    assert np.isnan(report.measures["track_error"]) and report.measures["presence"] == 0.0
    assert report.summary()["track_error"] is None
    assert report.table().splitlines()[-1].split() == ["track_error", "none", "px"]
    json.dumps({**report.summary(), "films": report.records()}, allow_nan=False)


def test_too_few_films_are_an_error(scenes):
    with pytest.raises(ValueError):
        evaluate(lambda prompts, seeds: [render(scenes[0], 17)], scenes)


def test_scenes_come_from_splits_and_files(scenes, tmp_path):
    assert load_scenes("held_out", 6) == scenes
    path = tmp_path / "prompts.jsonl"
    path.write_text("\n\n".join(json.dumps(structured(scene)) for scene in scenes))
    loaded = load_scenes(str(path))
    assert [attributes(s) for s in loaded] == [attributes(s) for s in scenes]
    assert len(load_scenes(str(path), 2)) == 2


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "has no prompts"),
        ("{", "line 1: not JSON"),
        ('{"subjects": []}', "line 1: .*exactly one main subject"),
        ('{"subjects": [], "lighting": "a\u2028b"}', "line 1: .*exactly one main subject"),
    ],
)
def test_bad_files_name_the_line(tmp_path, text, complaint):
    path = tmp_path / "bad.jsonl"
    path.write_text(text)
    with pytest.raises(UserError, match=complaint):
        load_scenes(str(path))


def test_missing_files_and_bad_counts():
    with pytest.raises(UserError, match="held_out_combinations"):
        load_scenes("nowhere.jsonl")
    with pytest.raises(UserError, match="1 or more"):
        load_scenes("held_out", 0)
    with pytest.raises(UserError, match="0 or more"):
        load_scenes("held_out", 1, seed=-1)


def test_contact_sheet_holds_every_film():
    films = [np.full((n, 64, 64, 3), 200, np.uint8) for n in (5, 33)]
    long = "word " * 60
    sheet = contact_sheet(films, ["short", long], columns=5, width=600)
    assert sheet.dtype == np.uint8 and sheet.shape[1:] == (600, 3)
    assert sheet.shape[0] > contact_sheet(films, ["short", "short"], columns=5, width=600).shape[0]
    assert (sheet == 200).all(-1).sum() > 2 * 5 * 100 * 100
    with pytest.raises(ValueError):
        contact_sheet(films, ["one"])
