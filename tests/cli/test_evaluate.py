"""`skyreels-jax evaluate` on a micro model: what it writes and what it refuses."""

import json

import imageio.v3 as iio
import pytest

from skyreels_jax.cli import side_by_side
from skyreels_jax.cli.main import main
from skyreels_jax.data.toy_film import world
from skyreels_jax.data.toy_film.captions import structured
from skyreels_jax.data.toy_film.render import render
from skyreels_jax.data.toy_film.world import sample_scene
from skyreels_jax.evals import suite


@pytest.fixture
def evaluate(micro_folder, tmp_path, capsys):
    """Runs the command with --outdir tmp_path/out; returns (exit code, stdout, stderr)."""

    def run(*argv):
        where = ["--model", str(micro_folder), "--outdir", str(tmp_path / "out")]
        small = ["--resolution", "64x64", "--num_frames", "5", "--inference_steps", "1"]
        code = main(["evaluate", *where, *small, *argv])
        return code, *capsys.readouterr()

    return run


def test_json_results_and_sheet(evaluate, tmp_path):
    path = tmp_path / "prompts.jsonl"
    lines = [json.dumps(structured(sample_scene(seed))) for seed in range(3)]
    path.write_text("\n".join(lines))
    code, out, err = evaluate("--prompts", str(path), "--batch", "2", "--json")
    assert (code, err) == (0, "")
    summary = json.loads(out)
    assert set(summary["adherence"]) == {*world.ATTRIBUTES, "mean"} and summary["num"] == 3
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert results["adherence"] == summary["adherence"] and len(results["films"]) == 3
    made = {"height": 64, "width": 64, "num_frames": 5, "inference_steps": 1, "batch_size": 2}
    assert results["options"] == summary["options"] == made and results["seed"] == 0
    assert iio.imread(tmp_path / "out" / "sheet.png").shape[1] == 1200


def test_concepts_of_two_settings(evaluate, tmp_path):
    settings = ("--setting", "one: guidance_scale=1", "--setting", "other: guidance_scale=3")
    concepts = ("--benchmark", "concepts", "--by", "colour", *settings)
    code, out, err = evaluate(*concepts, "--num", "4", "--batch", "4", "--rows", "3")
    assert (code, err) == (0, ""), err
    found = json.loads((tmp_path / "out" / "concepts.json").read_text())
    assert list(found["settings"]) == ["one", "other"] and list(found["against"]) == ["other"]
    assert found["settings"]["one"]["concepts"]["all"]["films"] == 4
    told = found["settings"]["other"]["options"]
    assert (told["guidance_scale"], told["height"], told["inference_steps"]) == (3, 64, 1)
    assert len(found["films"]["other"]) == 4 and found["by"] == "colour"
    assert out.splitlines()[0].split() == ["colour", "films", "one", "other"]
    assert "other against one, points" in out and "worst, " in out
    assert iio.imread(tmp_path / "out" / "concepts_sheet.png").shape[1] == 1200


def test_motion_of_two_settings(evaluate, tmp_path):
    settings = ("--setting", "one: guidance_scale=1", "--setting", "other: guidance_scale=3")
    motion = ("--benchmark", "motion", "--num", "2", "--seeds", "2", *settings)
    code, out, err = evaluate(*motion, "--batch", "4", "--rows", "3")
    assert (code, err) == (0, ""), err
    found = json.loads((tmp_path / "out" / "motion.json").read_text())
    assert (found["num"], found["seeds"]) == (2, 2) and list(found["against"]) == ["other"]
    assert found["settings"]["one"]["films"] == 4 and len(found["films"]["other"]) == 4
    told = [(film["prompt"], film["seed"]) for film in found["films"]["one"]]
    assert told == [(film["prompt"], film["seed"]) for film in found["films"]["other"]]
    assert [seed for _, seed in told] == [0, 1, 2, 3] and told[0][0] == told[2][0]
    assert out.splitlines()[0].split() == ["one", "other"]
    assert "other against one (95 % interval)" in out and "targets: errors of motion" in out
    assert iio.imread(tmp_path / "out" / "motion.png").shape[1] == 1660
    assert iio.imread(tmp_path / "out" / "motion_sheet.png").shape[1] == 1200


def test_an_interruption_leaves_the_settings_that_are_done(evaluate, tmp_path, monkeypatch):
    made, stop = [], ["other"]

    def report(args, one, scenes, rounds, progress):
        if one.name in stop:
            raise KeyboardInterrupt
        made.append((one.name, one.request.guidance_scale))
        films = (render(scene, 5) for _ in range(rounds) for scene in scenes)
        return suite.evaluate(lambda *_: films, scenes, rounds=rounds, keep=args.rows)

    monkeypatch.setattr(side_by_side, "_report", report)
    settings = ("--setting", "one: guidance_scale=1", "--setting", "other: guidance_scale=3")
    motion = ("--benchmark", "motion", "--num", "2", "--seeds", "2")
    code, out, _ = evaluate(*motion, *settings)
    assert code == 130 and out == ""
    found = json.loads((tmp_path / "out" / "motion.json").read_text())
    assert list(found["settings"]) == ["one"] and found["settings"]["one"]["motion"]["value"] < 0.2
    assert iio.imread(tmp_path / "out" / "motion.png").shape[1] == 1660
    stop.clear()
    code, _, err = evaluate(*motion, *settings)  # goes on from there
    assert code == 0 and made == [("one", 1), ("other", 3)] and "one: made before" in err
    whole = json.loads((tmp_path / "out" / "motion.json").read_text())
    assert whole["films"] == {"one": found["films"]["one"], "other": found["films"]["one"]}
    assert whole["settings"]["one"] == found["settings"]["one"]
    sheet = iio.imread(tmp_path / "out" / "motion_sheet.png")
    changed = ("--setting", "one: guidance_scale=2", "--setting", "third: guidance_scale=3")
    assert evaluate(*motion, *changed)[0] == 0  # the third is the other by another name
    assert made[2:] == [("one", 2)]
    assert evaluate(*motion, *changed, "--seed", "1")[0] == 0
    assert made[3:] == [("one", 2), ("third", 3)]
    assert sheet.shape[1] == 1200


@pytest.mark.parametrize(
    ("argv", "complaint"),
    [
        (("--by", "shape"), "--by is for --benchmark concepts"),
        (("--benchmark", "concepts", "--by", "shap"), "did you mean 'shape'"),
        (("--benchmark", "concepts", "--windows", "3"), "--windows is for --benchmark drift"),
        (("--benchmark", "concepts", "--rows", "0"), "--rows must be 1 or more"),
        (("--seeds", "2"), "--seeds is for --benchmark motion"),
        (("--benchmark", "motion", "--seeds", "0"), "--seeds must be 1 or more, got 0"),
        (("--benchmark", "motion", "--by", "shape"), "--by is for --benchmark concepts"),
        (
            ("--benchmark", "concepts", "--setting", "a: model=/nowhere"),
            "setting 'a': ",
        ),
        (
            ("--benchmark", "concepts", "--setting", "a: carry=latents"),
            "setting 'a': ",
        ),
        (("--prompts", "nowhere.jsonl"), "held_out_combinations"),
        (("--num", "0"), "number of films must be 1 or more"),
        (("--rows", "0"), "--rows must be 1 or more"),
        (("--seed", "-1"), "seed must be 0 or more"),
        (("--resolution", "96x64"), "multiple of 64"),
        (("--num_frames", "6"), "5 or 9"),
        (("--promts", "held_out"), "did you mean '--prompts'"),
    ],
)
def test_bad_input_is_one_line(evaluate, tmp_path, argv, complaint):
    code, out, err = evaluate(*argv)
    assert code == 2 and out == "" and complaint in err and err.count("\n") == 1
    assert not (tmp_path / "out").exists()
