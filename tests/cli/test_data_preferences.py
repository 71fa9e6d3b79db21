"""`skyreels-jax data`: pairs and labels end to end, and what it refuses."""

import argparse
import json
import pathlib

import imageio.v3 as iio
import numpy as np
import pytest

from skyreels_jax.cli import data
from skyreels_jax.core.errors import UserError
from skyreels_jax.data.preferences.preferences_dataset_builder import (
    read_preferences,
    split_names,
    to_preference,
)
from skyreels_jax.data.toy_film.render import render
from skyreels_jax.data.toy_film.world import sample_scene
from skyreels_jax.pipelines.film import Film


def run(*argv):
    parser = argparse.ArgumentParser()
    data.add_arguments(parser)
    return data.run(parser.parse_args(list(map(str, argv))))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A prepared set of pairs; the only one, to render and judge once."""
    home = tmp_path_factory.mktemp("pairs")
    options = ("--num_clips", 3, "--num_frames", 9, "--kinds", "jitter,too_slow")
    assert run("pairs", "--data_dir", home, *options) == 0
    (found,) = home.glob("preferences/*/1.0.0")
    return found


def test_twins_are_shown(tmp_path, capsys):
    argv = ("--num_frames", 9, "--kinds", "freeze,jitter", "--strengths", "0.5,1")
    assert run("twins", "--outdir", tmp_path / "new", *argv) == 0
    path = tmp_path / "new" / "twins.png"
    assert capsys.readouterr().out.strip() == str(path)
    height, width, _ = iio.imread(path).shape
    assert width == 1200 and height > 5 * 120  # a film and four twins


def test_a_model_makes_twins_too(micro_folder, tmp_path):
    argv = ("--num_frames", 5, "--kinds", "t2v", "--model", micro_folder)
    assert run("twins", "--outdir", tmp_path, *argv) == 0
    assert iio.imread(tmp_path / "twins.png").shape[0] > 3 * 120  # as shown too


def test_pairs_of_films_that_the_judge_compares(micro_folder, tmp_path, monkeypatch):
    judged, stop = [], 4  # in the second caption

    def judge(film, _):
        judged.append(film)
        if len(judged) == stop:
            raise KeyboardInterrupt
        return {"motion": bright(film)}

    monkeypatch.setattr("skyreels_jax.evals.axes.score_axes", judge)
    options = ("--num_frames", 5, "--num_clips", 2, "--per_clip", 3, "--inference_steps", 1)
    options += ("--held_out", 2)
    limits = ("--alignment_gap", 2, "--quality_gap", 1000, "--guidance_scale", 1)
    argv = ("--data_dir", tmp_path, "--model", micro_folder, *options, *limits)
    with pytest.raises(KeyboardInterrupt):
        run("film-pairs", *argv)
    (kept,) = tmp_path.glob("films-2x5-*.partial")
    assert run("film-pairs", *argv) == 0
    assert len(judged) == stop + 3 + 2 * 3 and not kept.exists()  # not the first caption again
    (place,) = tmp_path.glob("preferences/films-2x5-*/1.0.0")
    assert split_names(place) == ["train", "held_out"]
    found = [to_preference(record) for record in read_preferences(place)]
    assert 0 < len(found) <= 6 and {p.id.split("/")[0] for p in found} <= {"train-0", "train-1"}
    for one in found:
        apart = bright(one.chosen) - bright(one.rejected)
        assert (apart >= 0.1) if one.label == "better" else (0 <= apart <= 0.01)
        assert one.source == "films" and one.prompt


def bright(film):
    """Stands for how well films of noise move: nearly all pairs are far apart in it."""
    return float(film.astype(np.float64).mean() * 1e3 % 1)


def test_pairs_are_a_dataset_named_by_what_it_hangs_on(folder):
    assert folder.parent.name.startswith("toy-3x9-")
    assert split_names(folder) == ["train", "held_out"]
    made = [to_preference(record) for record in read_preferences(folder)]
    assert {p.source for p in made} <= {"jitter", "too_slow"} and 1 <= len(made) <= 3
    for one in made:
        assert one.chosen.shape == (9, 64, 64, 3) and one.id.startswith("train-")
        assert one.scores["text_alignment"][0] == 1


def test_labels_go_round(folder, tmp_path, capsys):
    assert run("label-sheet", "--pairs", folder, "--num", 2, "--outdir", tmp_path) == 0
    page = pathlib.Path(capsys.readouterr().out.strip()).read_text()
    ids = [record["id"].decode() for record in read_preferences(folder, pixels=False)]
    assert all(json.dumps(one) in page for one in ids[:2])
    lines = [{"annotator": a, "pair": ids[0], "label": "tie"} for a in ("ann", "bob")]
    lines += [{"annotator": "ann", "pair": one, "label": "better"} for one in ids[1:]]
    labels = tmp_path / "labels.jsonl"
    labels.write_text("\n".join(map(json.dumps, lines)))
    argv = ("--labels", labels, "--pairs", folder, "--data_dir", tmp_path, "--min_annotators", 2)
    assert run("import-labels", *argv) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "annotators 2" in out and "label tie 1" in out
    (made,) = tmp_path.glob("preferences/*-labelled-*/1.0.0")
    assert split_names(made) == ["train"]
    (one,) = map(to_preference, read_preferences(made))
    assert (one.id, one.label) == (ids[0], "tie")
    labels.write_text(json.dumps(lines[0] | {"pair": "other"}))
    with pytest.raises(UserError, match="labels name pair 'other'"):
        run("import-labels", *argv)
    labels.write_text(json.dumps(lines[0]))
    with pytest.raises(UserError, match="no pair is left after the labels"):
        run("import-labels", *argv)


def test_pairs_from_a_file(tmp_path, capsys):
    for name, seed in (("a", 0), ("b", 1)):
        Film(frames=render(sample_scene(seed), 5), fps=12).save(tmp_path / f"{name}.mp4")
    scores = {"text_alignment": [1, 1], "visual_quality": [30, 25]}
    row = {"chosen": "a.mp4", "rejected": "b.mp4", "label": "worse", "scores": scores}
    path = tmp_path / "films.jsonl"
    path.write_text(json.dumps(row))
    argv = ("import-pairs", "--pairs", path, "--data_dir", tmp_path)
    with pytest.raises(UserError, match=r"no pair is left \(dropped: visual_quality: 1\)"):
        run(*argv)
    assert run(*argv, "--quality_gap", 6) == 0
    (made,) = tmp_path.glob("preferences/films-*/1.0.0")
    (one,) = map(to_preference, read_preferences(made))
    assert (one.label, one.source, one.chosen.shape) == ("worse", "file", (5, 64, 64, 3))
    Film(frames=render(sample_scene(2), 9), fps=12).save(tmp_path / "b.mp4")
    Film(frames=render(sample_scene(3), 9), fps=12).save(tmp_path / "a.mp4")
    assert run(*argv, "--quality_gap", 6) == 0  # other clips under the same names
    (anew,) = {*tmp_path.glob("preferences/films-*/1.0.0")} - {made}
    assert to_preference(read_preferences(anew)[0]).chosen.shape == (9, 64, 64, 3)
    labels = tmp_path / "labels.jsonl"
    labels.write_text(json.dumps({"annotator": "ann", "pair": "1", "label": "better"}))
    shapes = []
    for frames in (9, 5):
        Film(frames=render(sample_scene(0), frames), fps=12).save(tmp_path / "a.mp4")
        Film(frames=render(sample_scene(1), frames), fps=12).save(tmp_path / "b.mp4")
        old = {*tmp_path.glob("preferences/films-labelled-*/1.0.0")}
        assert run("import-labels", "--labels", labels, *argv[1:]) == 0
        (new,) = {*tmp_path.glob("preferences/films-labelled-*/1.0.0")} - old
        shapes.append(to_preference(read_preferences(new)[0]).chosen.shape[0])
    assert shapes == [9, 5]
    path.write_text(json.dumps(row | {"rejected": "none.mp4"}))
    with pytest.raises(UserError, match=r"films.jsonl:1: cannot read video .*no such file"):
        run(*argv)


@pytest.mark.parametrize(
    ("argv", "complaint"),
    [
        (("twins", "--num", "3"), "twins does not read --num; legal: --outdir"),
        (("twins", "--kinds", "melt"), "no distortion 'melt'"),
        (("twins", "--strengths", "0"), "strength 0 is out of range"),
        (("twins", "--kinds", "v2v"), "v2v is made by a model; give --model"),
        (("pairs", "--per_clip", "0"), "per_clip >= 1"),
        (("pairs", "--held_out", "0"), "--held_out must be 1 or more, got 0"),
        (("film-pairs",), "data film-pairs needs --model"),
        (("film-pairs", "--per_clip", "1"), "--per_clip must be 2 or more, to compare films"),
        (("film-pairs", "--model", "/none"), "/none"),
        (("film-pairs", "--model", "tiny", "--guidance_scale", "-1"), "guidance_scale"),
        (("film-pairs", "--model", "tiny", "--num_frames", "7"), "num_frames"),
        (("import-pairs",), "data import-pairs needs --pairs"),
        (("import-pairs", "--pairs", "/none.jsonl"), "cannot read '/none.jsonl'"),
        (("label-sheet",), "data label-sheet needs --pairs"),
        (("label-sheet", "--pairs", "/none"), "'/none' holds no preferences"),
        (("import-labels", "--pairs", "/none"), "data import-labels needs --labels"),
        (("import-labels", "--labels", "/none.csv", "--pairs", "/none"), "cannot read '/none.csv'"),
        (("import-labels", "--discard_share", "2"), "discard_share in"),
    ],
)
def test_bad_input(argv, complaint, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=complaint):
        run(*argv)
    assert not list(tmp_path.iterdir())
