"""`skyreels-jax evaluate --benchmark drift|story|schedules` on a micro model."""

import json

import imageio.v3 as iio
import pytest

from skyreels_jax.cli import long_films
from skyreels_jax.cli.main import main, parse
from skyreels_jax.cli.settings import parse_settings
from skyreels_jax.core.errors import UserError
from skyreels_jax.data.toy_film.captions import structured
from skyreels_jax.data.toy_film.world import sample_scene
from skyreels_jax.pipelines.source import ModelSource

SMALL = ("--resolution", "64x64", "--inference_steps", "1", "--guidance_scale", "1")


@pytest.fixture
def evaluate(forcing_folder, tmp_path, capsys):
    """Runs the command with --outdir tmp_path/out; returns (exit code, stdout, stderr)."""

    def run(benchmark, *argv, model=forcing_folder):
        where = ["--model", str(model), "--outdir", str(tmp_path / "out")]
        code = main(["evaluate", "--benchmark", benchmark, *where, *SMALL, *argv])
        return code, *capsys.readouterr()

    return run


def results(folder, name):
    """Returns what a benchmark wrote, its pictures looked at."""
    assert sorted(p.name for p in folder.iterdir()) == [
        f"{name}.json",
        f"{name}.png",
        f"{name}_sheet.png",
    ]
    assert iio.imread(folder / f"{name}.png").shape[1] == 1660
    assert iio.imread(folder / f"{name}_sheet.png").shape[1] == 1200
    return json.loads((folder / f"{name}.json").read_text())


def test_drift(evaluate, tmp_path):
    code, out, err = evaluate("drift", "--num", "1", "--windows", "3")
    assert (code, err) == (0, ""), err
    found = results(tmp_path / "out", "drift")
    assert list(found["settings"]) == ["latents", "pixels", "pixels, no added noise"]
    assert found["world"]["last_adherence"] == found["world"]["kept"] == 1.0
    for setting in found["settings"].values():
        assert setting["seconds"] == 2 and len(setting["curves"]["adherence"]["mean"]) == 2
        assert setting["colour_drift"] is None or setting["colour_drift"] >= 0
    assert found["settings"]["pixels"]["options"]["addnoise_condition"] == 20
    assert "the world itself" in out and "targets: last/first >= 0.90" in out


def test_story(evaluate, tmp_path):
    path = tmp_path / "stories.jsonl"
    path.write_text("\n".join(json.dumps(structured(sample_scene(seed))) for seed in range(3)))
    flags = ("--base_num_frames", "17", "--windows", "11", "--setting", "only: carry=latents")
    code, out, err = evaluate("story", "--prompts", str(path), *flags)
    assert (code, err) == (0, ""), err
    found = results(tmp_path / "out", "story")
    only = found["settings"]["only"]
    assert only["left_out_frames"] == 12 and len(only["segments"]) == 3
    assert only["options"]["base_num_frames"] == 17 and only["inference_steps"] == 1
    (story,) = found["films"]["only"]
    assert [len(part["seconds"]) for part in story] == [5, 4, 4]
    assert "the window in which the prompt changes, 12 frames (only)" in out


def test_windows_of_a_story_from_a_cache_are_blocks(causal_folder):
    settings = ["--setting", "cached: carry=cache base_num_frames=61 overlap_history=17"]
    argv = ["evaluate", "--model", str(causal_folder), *SMALL, *settings, "--windows", "10"]
    args = parse(argv)
    (asked,) = long_films.ask(args, args.setting, [["a", "b", "c"]])
    assert long_films.left_out(asked.request) == 8  # two latent frames
    long_films.check_parts(asked, 33)


def test_schedules(evaluate, tmp_path):
    settings = ("--setting", "together: ar_step=0", "--setting", "after: ar_step=1")
    code, out, err = evaluate("schedules", "--num", "1", "--windows", "2", "--json", *settings)
    assert (code, err) == (0, ""), err
    found = results(tmp_path / "out", "schedules")
    assert json.loads(out)["settings"] == found["settings"]
    together, after = found["settings"].values()
    # 9, 4, 4 and 4 frames in 21 / 12 s: a row for each window, or for every latent frame of it.
    assert together["model_runs_per_second"] == pytest.approx(4 * 12 / 21, abs=1e-3)
    assert after["model_runs_per_second"] == pytest.approx(6 * 12 / 21, abs=1e-3)
    assert together["compute_per_second"] > 0


def test_settings():
    one, two = parse_settings(["a b: carry=latents ar_step=2", "c: model='x y' shift=3"])
    assert (one.name, one.options) == ("a b", {"carry": "latents", "ar_step": 2})
    assert two.options == {"model": "x y", "shift": 3.0}
    assert parse_settings(["plain:"])[0].options == {}
    with pytest.raises(UserError, match="two settings have the name 'a'"):
        parse_settings(["a: ar_step=1", "a: ar_step=2"])


@pytest.mark.parametrize(
    ("benchmark", "argv", "complaint"),
    [
        ("drift", ("--num_frames", "9"), "--num_frames is for --benchmark clips"),
        ("drift", ("--batch", "2"), "--batch is for --benchmark clips or story"),
        ("drift", ("--change", "all"), "--change is for --benchmark story"),
        ("clips", ("--setting", "a: ar_step=1"), "for --benchmark drift or story or schedules"),
        ("drift", ("--windows", "0"), "--windows must be 1 or more"),
        ("story", ("--base_num_frames", "9", "--windows", "40"), "9 frames has no whole second"),
        ("schedules", ("--base_num_frames", "9", "--windows", "1"), "9 frames has no whole second"),
        ("drift", ("--num", "0"), "number of films must be 1 or more"),
        ("drift", ("--seed", "-1"), "seed must be 0 or more"),
        ("drift", ("--rows", "0"), "--rows must be 1 or more"),
        ("drift", ("--prompts", "nowhere.jsonl"), "held_out_combinations"),
        ("drift", ("--resolution", "32x64"), "multiple of 64"),
        ("drift", ("--overlap_history", "9"), "setting 'latents': overlap_history 9 must be less"),
        ("drift", ("--setting", "latents"), "is not like 'pixels: carry=pixels"),
        ("drift", ("--setting", "a: carry"), "is not like 'pixels: carry=pixels"),
        ("drift", ("--setting", "a: 'carry"), "No closing quotation"),
        ("drift", ("--setting", "a: cary=pixels"), "did you mean 'carry'"),
        ("drift", ("--setting", "a: carry=thoughts"), "setting 'a': carry 'thoughts' is not one"),
        (
            "drift",
            ("--setting", "a: ar_step=x"),
            "setting 'a': argument --ar_step: invalid int value: 'x'",
        ),
        ("drift", ("--setting", "a: model=/nowhere"), "nowhere"),
        ("schedules", ("--setting", "a: causal_block_size=2"), "multiple of causal_block_size 2"),
        ("story", ("--change", "colours"), "no attribute 'colours'"),
        ("story", ("--windows", "3"), "fewer than 33; give more --windows"),
        ("story", ("--num", "0"), "number of films must be 1 or more"),
        ("best", (), "invalid choice: 'best'"),
    ],
)
def test_bad_input_is_one_line(evaluate, tmp_path, monkeypatch, benchmark, argv, complaint):
    monkeypatch.setattr(ModelSource, "load", lambda *_, **__: pytest.fail("weights were loaded"))
    code, out, err = evaluate(benchmark, *argv)
    assert code == 2 and out == "" and complaint in err and err.count("\n") == 1, err
    assert not (tmp_path / "out").exists()


def test_other_models_are_refused(evaluate, micro_folder, tmp_path):
    path = tmp_path / "two.jsonl"
    path.write_text("\n".join(json.dumps(structured(sample_scene(seed))) for seed in range(2)))
    code, _, err = evaluate("drift", model=micro_folder)
    assert code == 2 and "is no diffusion-forcing model" in err
    code, _, err = evaluate("story", "--prompts", str(path))
    assert code == 2 and "2 captions are no stories of 3; give 3 lines for each" in err
    code, _, err = evaluate("story", "--prompts", str(path), "--change", "all")
    assert code == 2 and "--change is for stories of a split" in err
