"""kill -9 at any moment: a run goes on from its last complete checkpoint, to the same weights."""

import os
import pathlib
import random
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
from toy_run import BATCH

from skyreels_jax.testing.raw_state import raw_state

SCRIPT = pathlib.Path(__file__).with_name("toy_run.py")
REPOSITORY = SCRIPT.parents[2]
EVERY = 2  # steps between checkpoints
SHORTEST, LONGEST = 6, 16  # steps until a kill; of so many the first checkpoint is complete
PACE = 20


def start(folder, steps):
    command = [sys.executable, str(SCRIPT), str(folder), str(steps), str(EVERY)]
    cache = jax.config.jax_compilation_cache_dir
    env = os.environ | {"PYTHONPATH": str(REPOSITORY), "SKYREELS_JAX_CACHE": str(cache)}
    return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True)


def batches_in(lines):
    """Yields the sample numbers of every batch among the lines that a run prints."""
    for line in lines:
        if line.startswith(BATCH):
            yield line.removeprefix(BATCH).strip()


def complete(folder):
    """Returns the step of the last complete checkpoint, 0 for none."""
    found = (folder / "checkpoints").glob("*")
    return max((int(path.name) for path in found if path.name.isdigit()), default=0)


@pytest.mark.parametrize("kills", [3, pytest.param(20, marks=pytest.mark.slow)])
def test_a_killed_run_comes_to_the_same(tmp_path, kills):
    steps, moments = PACE * kills, random.Random(kills)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    run = start(whole, steps)
    batches = list(batches_in(run.communicate(timeout=600)[0].splitlines()))
    assert run.returncode == 0 and len(batches) == steps

    began = []
    for _ in range(kills):
        known = complete(killed)
        run = start(killed, steps)
        coming = batches_in(run.stdout)
        first = next(coming)
        for _ in range(moments.randint(SHORTEST, LONGEST)):
            before = time.monotonic()
            assert next(coming)
        time.sleep(moments.uniform(0, 2 * (time.monotonic() - before)))
        run.kill()
        run.communicate()
        assert run.returncode == -signal.SIGKILL, "it came to its end first"
        assert first == batches[known]
        began.append(known)
    assert began == sorted(set(began))  # each got further than the one before

    known = complete(killed)
    run = start(killed, steps)
    assert list(batches_in(run.communicate(timeout=600)[0].splitlines())) == batches[known:]
    assert run.returncode == 0
    assert complete(killed) == steps
    ours, theirs = raw_state(killed), raw_state(whole)
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)
    left = {path.name for path in (killed / "checkpoints").iterdir() if path.is_dir()}
    assert left == {path.name for path in (whole / "checkpoints").iterdir() if path.is_dir()}
