"""benchmarks/plans.py: every candidate is one that can be planned; what fails loses nothing."""

import functools
import json
import math
import pathlib
import subprocess
import sys

import pytest
import yaml

from skyreels_jax.cli.main import parse
from skyreels_jax.cli.train import read_config, resolved
from skyreels_jax.data.buckets import buckets

ROOT = pathlib.Path(__file__).parents[2]
sys.path.append(str(ROOT / "benchmarks"))
import plans as script  # noqa: E402

GIB = 2**30
FITS = {
    "mesh": {"data": 1, "fsdp": 4, "tensor": 1, "context": 2, "attention": "ulysses"},
    "work": "8 clips",
    "peak": 12 * GIB,
    "limit": 16 * GIB,
    "fits": True,
    "compile_seconds": 60.0,
    "estimated": {"seconds": 10.0, "mfu": 0.5, "products": 9.0, "attention": 0.0, "memory": 0.01}
    | {"exposed": 0.99},
}
FULL = FITS | {"peak": 18 * GIB, "fits": False, "estimated": None, "compile_seconds": None}


@functools.cache
def values_of(size, resolution):
    return read_config(f"{ROOT / 'configs' / 'film' / script.CONFIGS[resolution]}.py:{size}")


def config_of(one):
    return resolved(values_of(one.size, one.resolution), one.sets)[1]


def test_every_candidate_can_be_planned():
    """What a plan refuses is hours away, behind others."""
    asked = list(script.candidates([]))
    assert len(asked) == len({one.file for one in asked})
    for one in asked:
        config = config_of(one)
        chip, _, shape = one.topology.partition(":")
        chips = math.prod(int(size) for size in shape.split("x"))
        mesh = config.mesh.sized(chips * (2 if chip == "tpu7x" else 1))
        heads = mesh.tensor * (mesh.context if mesh.attention == "ulysses" else 1)
        assert config.model.transformer.num_attention_heads % heads == 0, one
        (stage,) = config.stages
        largest = buckets(stage.resolution, stage.frames)[-1]
        assert (largest.tokens // largest.latents[0]) % mesh.context == 0, one
        if one.step == "train":
            assert stage.batch % (config.accumulate * mesh.data * mesh.fsdp) == 0, one


def test_what_is_launched_is_among_them():
    spec = yaml.safe_load((ROOT / "launch" / "gke_tpu.yaml").read_text())["spec"]
    pod = spec["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]
    args = parse(pod["containers"][0]["command"][1:])
    topology = pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"]
    words = ["14b", "720p", "train", f"v5p:{topology}"]
    assert args.config.endswith("sft_720p.py:14b")
    meshes = [item for item in args.set if not item.startswith(("start", "data"))]
    assert tuple(meshes) in [one.sets for one in script.candidates(words)]


@pytest.fixture
def made(monkeypatch, capsys, tmp_path):
    """Runs the script on `answers`, (exit code, plan) of `plan` by a word in the candidate's name;
    returns exit code, what was printed, and how often it was asked.
    """

    def run(answers):
        asked = []

        def plan(command, **_):
            (word,) = [word for word in answers if word in " ".join(command)]
            asked.append(word)
            code, said = answers[word]
            out = "" if said is None else f"note\n{json.dumps(said)}\n"
            return subprocess.CompletedProcess(command, code, out)

        monkeypatch.setattr(script.subprocess, "run", plan)
        flags = ["--only", "1.3b", "--only", "train", "--only", "v5e", "--all"]
        monkeypatch.setattr(sys, "argv", ["plans.py", *flags, "--out", str(tmp_path)])
        try:
            code = script.main() or 0
        except SystemExit as left:
            code = left.code
        return code, capsys.readouterr().out.splitlines()[2:], asked

    return run


def test_what_does_not_fit_is_kept_and_what_fails_is_tried_again(made):
    fails = {"fsdp=64": (1, None), "fsdp=32": (0, FITS)}
    fails |= {"fsdp=16": (1, FULL), "fsdp=8": (2, None)}
    code, rows, asked = made(fails)
    assert code == "FAILED 2 of 5 plans, see above"
    assert asked == ["fsdp=64", "fsdp=32", "fsdp=32", "fsdp=16", "fsdp=8"]
    assert [row.split(" | ")[0] for row in rows] == [
        "| 1.3b 540p train v5e:8x8",
        "| 1.3b 720p train v5e:8x8",
        "| 1.3b 720p train v5e:8x8",
    ]
    assert "12.0 of 16 | 10 s (products 9, exposed 0.99) | 50% | 60 s |" in rows[0]
    assert "fsdp 4, context 2 (ulysses), accumulate=4 |" in rows[0]
    assert "18.0 of 16 | does not fit, by 2.0 GiB |" in rows[-1]
    code, again, asked = made({"fsdp=64": (-9, None), "fsdp=8": (0, FITS)})
    assert (len(again), asked) == (len(rows) + 1, ["fsdp=64", "fsdp=8"]) and code
    code, rows, asked = made({"fsdp=64": (0, FITS)})
    assert (code, len(rows), asked) == (0, 5, ["fsdp=64"])
    assert made({})[1:] == (rows, [])


def test_the_best_is_the_fastest_that_fits_or_the_nearest_to_it():
    slow, larger = (
        FITS | {"estimated": FITS["estimated"] | {"seconds": 11.0}},
        FULL | {"peak": 1e12},
    )
    assert script.best([slow, FULL, FITS]) is FITS
    assert script.best([larger, FULL]) is FULL
