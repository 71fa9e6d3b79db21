"""Adapters and the step cache on the command line, and films with them made again."""

import json
import pathlib

import av
import numpy as np
import pytest
from safetensors.numpy import save_file

from skyreels_jax.cli.main import main
from skyreels_jax.testing.micro import micro_configs

PROMPT = "A large red circle moves left."


@pytest.fixture
def generate(micro_folder, tmp_path, capsys):
    """Runs the command; returns (exit code, the films' paths, stderr)."""

    def run(*argv, out="out"):
        model = [] if "--from" in argv else ["--model_id", str(micro_folder), "--prompt", PROMPT]
        code = main(["generate", *model, "--outdir", str(tmp_path / out), *argv])
        return code, *(text.splitlines() for text in capsys.readouterr())

    return run


@pytest.fixture
def lora(tmp_path):
    width = micro_configs()["transformer"].width
    random, name = np.random.default_rng(0), "diffusion_model.blocks.1.self_attn.v"
    path = tmp_path / "v.safetensors"
    tensors = {
        f"{name}.lora_down.weight": random.normal(size=(2, width)).astype(np.float32),
        f"{name}.lora_up.weight": random.normal(size=(width, 2)).astype(np.float32),
        f"{name}.alpha": np.full((), 4, np.float32),
    }
    save_file(tensors, path)
    return path


def read(film):
    return json.loads(pathlib.Path(film).with_suffix(".json").read_text())


def frames(path):
    with av.open(path) as container:
        return np.stack([f.to_ndarray(format="rgb24") for f in container.decode(video=0)])


def difference(a, b) -> float:
    return float(np.abs(frames(a).astype(int) - frames(b)).mean())


def test_films_with_adapters_and_step_cache_are_made_again(generate, lora):
    plain = generate("--inference_steps", "5", out="plain")[1][0]
    flags = ["--lora", str(lora), "--lora", f"{lora}:-0.5", "--inference_steps", "5"]
    code, [film], err = generate(*flags, "--teacache", "--teacache_thresh", "2")
    assert (code, err) == (0, [])
    recipe = read(film)
    assert [(one["path"], one["scale"]) for one in recipe["lora"]] == [
        (str(lora), 1.0),
        (str(lora), -0.5),
    ]
    assert (recipe["teacache"], recipe["teacache_thresh"]) == (True, 2.0)
    assert recipe["use_ret_steps"] is False
    note = film.replace(".mp4", ".json")
    code, [again], err = generate("--from", note, out="again")
    assert (code, err) == (0, [])
    assert difference(film, again) < 0.5 < difference(film, plain)
    code, [other], err = generate("--from", note, "--no-teacache", "--lora", str(lora), out="other")
    changed = read(other)
    settings = ("teacache_thresh", "use_ret_steps", "force_teacache")
    off = {"teacache": False, **dict.fromkeys(settings)}
    assert changed == {**recipe, **off, "lora": recipe["lora"][:1]}


def test_what_the_step_cache_alone_reads_is_not_ignored(generate):
    small = ("--num_frames", "1", "--resolution", "16x16")
    note = generate(*small)[1][0].replace(".mp4", ".json")
    code, out, err = generate("--from", note, "--teacache_thresh", "0.3", "--overwrite")
    assert (code, out, len(err)) == (2, [], 1)
    assert "teacache_thresh does nothing without teacache" in err[0]


def test_an_adapter_that_is_not_as_it_was(generate, lora, tmp_path):
    note = generate("--lora", str(lora))[1][0].replace(".mp4", ".json")
    save_file({"blocks.0.attn1.to_q.lora_A.weight": np.zeros((1, 24), np.float32)}, lora)
    code, _, err = generate("--from", note, out="again")
    assert code == 2 and "is no adapter of this model: 1 unpaired" in err[0]
    width = micro_configs()["transformer"].width
    name = "blocks.0.attn1.to_q"
    tensors = {
        f"{name}.lora_A.weight": np.zeros((1, width), np.float32),
        f"{name}.lora_B.weight": np.zeros((width, 1), np.float32),
    }
    save_file(tensors, lora)
    code, _, err = generate("--from", note, out="again")
    assert code == 2 and "is not as it was; to take it as it is: --lora PATH" in err[0]
    assert not (tmp_path / "again").exists()


def test_bad_flags_are_one_line(generate, lora, tmp_path):
    for flags, message in [
        (["--lora", "/absent.safetensors"], "no such weight file"),
        (["--lora", f"{lora}:1000"], "out of range; legal: -100 to 100"),
        (["--teacache_thresh", "-1"], "teacache_thresh -1 is out of range"),
    ]:
        code, out, err = generate(*flags)
        assert (code, out, len(err)) == (2, [], 1) and message in err[0]
    assert not (tmp_path / "out").exists()
