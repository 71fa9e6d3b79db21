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

from skyreels_jax.checkpoint import Checkpoints

SCRIPT = pathlib.Path(__file__).with_name("toy_run.py")
REPOSITORY = SCRIPT.parents[2]
EVERY, LONGEST = 2, 0.4  # steps between checkpoints; seconds of training until a kill
PACE = 150  # steps a kill, more than any machine takes in that time


def start(folder, steps):
    command = [sys.executable, str(SCRIPT), str(folder), str(steps), str(EVERY)]
    env = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True)


def complete(folder):
    """Returns the step of the last complete checkpoint, 0 for none."""
    found = (folder / "checkpoints").glob("*")
    return max((int(path.name) for path in found if path.name.isdigit()), default=0)


def state(folder):
    with Checkpoints(folder / "checkpoints") as checkpoints:
        return checkpoints.latest(), checkpoints.restore_raw(checkpoints.latest())


@pytest.mark.parametrize("kills", [3, pytest.param(20, marks=pytest.mark.slow)])
def test_a_killed_run_comes_to_the_same(tmp_path, kills):
    steps, moments = PACE * kills, random.Random(kills)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    run = start(whole, steps)
    batches = run.communicate(timeout=600)[0].splitlines()
    assert run.returncode == 0 and len(batches) == steps

    began = []
    for _ in range(kills):
        known = complete(killed)
        run = start(killed, steps)
        first = run.stdout.readline().strip()
        time.sleep(moments.uniform(0, LONGEST))
        run.kill()
        run.communicate()
        assert run.returncode == -signal.SIGKILL, "it came to its end first"
        assert first == batches[known]
        began.append(known)
    assert began[-1] > 0 and began == sorted(began)

    known = complete(killed)
    run = start(killed, steps)
    assert run.communicate(timeout=600)[0].splitlines() == batches[known:]
    assert run.returncode == 0
    (step, ours), (_, theirs) = state(killed), state(whole)
    assert step == steps
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)
    left = {path.name for path in (killed / "checkpoints").iterdir() if path.is_dir()}
    assert left == {path.name for path in (whole / "checkpoints").iterdir() if path.is_dir()}
