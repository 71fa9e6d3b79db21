"""What conversion holds in memory, measured in processes of its own."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

REPOSITORY = pathlib.Path(__file__).parents[2]
SIZES = ("--layers", "32", "--width", "256", "--ffn_dim", "3072", "--text_dim", "64")


@pytest.mark.skipif(sys.platform != "linux", reason="Linux alone says how much memory was held")
@pytest.mark.parametrize(
    "flags", [pytest.param(SIZES, id="small"), pytest.param((), id="1.3B", marks=pytest.mark.slow)]
)
def test_memory_is_that_of_the_largest_group_of_tensors(flags, tmp_path):
    done = subprocess.run(
        [sys.executable, "benchmarks/convert.py", *flags, "--dir", str(tmp_path), "--json"],
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert list(result["cases"]) == ["run to diffusers", "diffusers to orbax"]
    for case in result["cases"].values():
        # Whoever held all of it would be far beyond.
        assert case["written"] > 2 * result["group_bytes"]
        assert case["growth"] <= 1.2 * result["group_bytes"], case
    assert result["ratio"] <= 1.2
    assert not list(tmp_path.iterdir())
