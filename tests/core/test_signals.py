"""SIGTERM: with which exit code it ends a program, and who takes it."""

import pathlib
import subprocess
import sys

import pytest

SCRIPT = """
import os, signal, sys, time
sys.path.insert(0, sys.argv[1])
from skyreels_jax.core.signals import Signals, sigterm_ends

with sigterm_ends(75, "stopped"):
    with Signals("noted") as signals:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.2)
        assert signals.noted == signal.SIGTERM
    print("goes on", flush=True)
    if sys.argv[2] == "inside":
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)
os.kill(os.getpid(), signal.SIGTERM)
"""


@pytest.mark.parametrize(("where", "code"), [("inside", 75), ("behind", -15)])
def test_the_exit_code(where, code):
    repository = str(pathlib.Path(__file__).parents[2])
    command = [sys.executable, "-c", SCRIPT, repository, where]
    told = subprocess.run(command, capture_output=True, text=True, timeout=50)
    assert (told.returncode, told.stdout) == (code, "goes on\n"), told.stderr
    assert told.stderr.split() == (["noted", "stopped"] if where == "inside" else ["noted"])
