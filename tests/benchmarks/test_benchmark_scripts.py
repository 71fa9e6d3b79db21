"""Every benchmark runs at the smallest sizes and says in JSON what docs/performance.md reads."""

import argparse
import itertools
import json
import os
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest

from skyreels_jax.core.tree import named_leaves
from skyreels_jax.kernels import attention
from skyreels_jax.models.kinds import in_float32

REPOSITORY = pathlib.Path(__file__).parents[2]
sys.path.append(str(REPOSITORY / "benchmarks"))
import attention as attention_script  # noqa: E402
import dit as dit_script  # noqa: E402
import text as text_script  # noqa: E402

COMPILER = pathlib.Path(sys.prefix) / "tpu" / "libtpu" / "libtpu.so"
SMALL = "--width 32 --ffn_dim 48 --text_dim 32 --layers 1"
SCRIPTS = {  # arguments, and keys of the object
    "attention": (
        "--tokens 64 --heads 2 --head_dim 16 --impl chunked",
        {"ratio", "backward_ratio", "peak"},
    ),
    "dit": (f"{SMALL} --grid 1 2 2 --text 8", {"ratio", "train_ratio", "peak"}),
    "vae": (
        "--base_dim 8 --frames 5 --height 16 --width 16",
        {"encode_ratio", "decode_ratio", "peak"},
    ),
    "text": ("--layers 1 --d_model 32 --d_ff 48 --heads 2 --tokens 16", {"ratio", "peak"}),
    "load": (SMALL, {"ratio", "file_bytes"}),
    "film": ("--num_frames 5 --inference_steps 2", {"ratio", "psnr_db", "peak"}),
    "causal": (
        "--window 4 --block 2 --height 16 --width 16 --inference_steps 2",
        {"ratio", "peak"},
    ),
    "convert": ("--layers 4 --width 32 --ffn_dim 64 --text_dim 32", {"ratio", "group_bytes"}),
    "startup": ("--num_frames 5 --inference_steps 2", {"ratio"}),
}
COMPARE_ARRAYS = ("attention", "dit", "vae", "text", "causal")  # film.py says `psnr_db`


def run(script: str, *flags: str) -> subprocess.CompletedProcess:
    env = {**os.environ, "PYTHONPATH": str(REPOSITORY), "JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""}
    env |= {"SKYREELS_JAX_CACHE": str(REPOSITORY / ".cache" / "jax")}
    command = [sys.executable, f"benchmarks/{script}.py", *flags]
    return subprocess.run(command, cwd=REPOSITORY, env=env, capture_output=True, text=True)


# Two processes each, which import torch and compile: one is enough by default.
@pytest.mark.parametrize(
    "script",
    [pytest.param(s, marks=[] if s == "attention" else [pytest.mark.slow]) for s in SCRIPTS],
)
def test_says_in_json_what_it_measured(script):
    flags, keys = SCRIPTS[script]
    done = run(script, *flags.split(), "--threads", "1", "--runs", "1", "--json")
    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.splitlines()
    result = json.loads(line)
    assert keys | {"cases"} <= set(result) and result["threads"] == 1
    assert all(result[key] > 0 for key in keys if key.endswith("ratio"))
    for name, case in result["cases"].items():
        sides = [told for told in case.values() if isinstance(told, dict)]
        assert sides, name
        assert all(min(side["seconds"]) > 0 for side in sides)
        assert "peak" not in keys or all(0 < side["peak_fraction"] < 1.5 for side in sides)
        # The sides computed the same, noise of float32 aside; without any nothing was computed.
        assert ("difference" in case) == (script in COMPARE_ARRAYS), name
        assert script not in COMPARE_ARRAYS or 0 < case["difference"] < 1e-3, (name, case)


def test_help_says_what_is_compared():
    done = run("attention", "--help")
    assert done.returncode == 0 and "SDPA" in done.stdout and "--worker" not in done.stdout
    assert f"{{{','.join(attention.IMPLEMENTATIONS)}}}" in done.stdout


@pytest.mark.skipif(not COMPILER.exists(), reason="the TPU compiler is not there")
@pytest.mark.parametrize(
    ("script", "flags"),
    [
        ("text", "--layers 1 --d_model 128 --d_ff 128 --heads 2"),
        pytest.param("vae", "--base_dim 8 --height 16 --width 16", marks=pytest.mark.slow),
        pytest.param("dit", f"{SMALL} --grid 1 8 8", marks=pytest.mark.slow),
        pytest.param("attention", "--tokens 512 --dtype bfloat16", marks=pytest.mark.slow),
    ],
)
def test_compiles_for_a_tpu_that_is_not_there(script, flags):
    done = run(script, *flags.split(), "--topology", "v5e:2x2", "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["topology"] == "v5e:2x2" and result["cases"]
    for case in result["cases"].values():
        assert case["held_gib"] > 0 and case["seconds_at_peak"] > 0
    if script == "text":
        done = run(script, *flags.split(), "--topology", "v9:2x2")
        assert done.returncode == 1 and "no TPU is called 'v9'" in done.stderr


def test_attention_compares_the_output_and_all_gradients_and_fetches_none_in_its_time():
    args = {"batch": 1, "tokens": 8, "heads": 1, "head_dim": 8, "dtype": "bfloat16"}
    cases = attention_script.ours(
        argparse.Namespace(**args, impl="reference", topology=None, threads=1)
    )
    found = cases["reference backward"].run()
    assert all(isinstance(x, jax.Array) and x.dtype == "bfloat16" for x in found)
    array = cases["reference backward"].array(found)
    assert array.shape == (4, 1, 8, 1, 8) and array.dtype == np.float32
    assert cases["reference forward"].array(found[:1]).shape == (1, 1, 8, 1, 8)
    for one, other in itertools.combinations(array, 2):
        assert np.abs(one - other).max() > 1e-2


def test_programs_are_compiled_for_the_types_that_films_hold():
    sizes = {"layers": 1, "dtype": "bfloat16", "width": 32, "ffn_dim": 48, "text_dim": 32}
    sizes |= {"grid": (1, 2, 2), "text": 8, "tokens": 8, "d_model": 32, "d_ff": 48, "heads": 2}
    args = argparse.Namespace(**sizes, vocabulary=100)
    encoder = text_script.abstract(args, text_script.config_of(args))
    for _, (shapes, *_), _ in [*dit_script.abstract(args).values(), *encoder.values()]:
        found = dict(named_leaves(shapes))
        kept = {path for path, leaf in found.items() if leaf.dtype == "float32"}
        assert kept == {path for path in found if in_float32(path)} and 0 < len(kept) < len(found)


@pytest.mark.slow
def test_an_implementation_of_another_machine_is_a_failure():
    flags = "--tokens 64 --heads 1 --head_dim 64 --impl pallas_tpu --threads 1 --runs 1"
    done = run("attention", *flags.split())
    assert done.returncode == 1 and "every implementation refused" in done.stderr
    assert "it is for a TPU alone" in done.stdout
