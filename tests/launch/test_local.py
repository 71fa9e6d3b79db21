"""launch/local.sh: two processes train as one, stop as one, and see when one of them is gone."""

import contextlib
import csv
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

import imageio.v3 as iio
import jax
import numpy as np
import pytest

from skyreels_jax.checkpoint import find_checkpoint
from skyreels_jax.cli.main import main
from skyreels_jax.testing.raw_state import raw_state

REPOSITORY = pathlib.Path(__file__).parents[2]
STEPS, EVERY = 24, 4
CONFIG = """
import ml_collections

def get_config():
    return ml_collections.ConfigDict({
        "kind": "text_to_video",
        "out": "unused",
        "model": {
            "transformer": {
                "num_attention_heads": 2, "attention_head_dim": 12, "in_channels": 4,
                "out_channels": 4, "text_dim": 16, "freq_dim": 16, "ffn_dim": 32, "num_layers": 1,
            },
            "text_encoder": {"d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2},
        },
        "objective": {},
        "data": {
            "folder": "%(root)s/data", "clips": 16, "num_frames": 5, "captions": 2,
            "vae": "%(vae)s", "latents": "%(root)s/latents",
        },
        "stages": ({"steps": %(steps)s, "batch": 8},),
        "optimizer": {"name": "adam", "adam_learning_rate": 1e-2, "warmup_steps": 1},
        "ema_decay": 0.9,
        "log_every": 1,
        "save_every": %(every)s,
        "sample_every": %(steps)s,
        "mesh": {"fsdp": 8},
    })
"""


@pytest.fixture(scope="module")
def root(tmp_path_factory, micro_folder):
    """A folder with the config of a run on eight devices, whose data nobody has made yet."""
    root = tmp_path_factory.mktemp("launch")
    told = {"root": root, "vae": micro_folder / "vae", "steps": STEPS, "every": EVERY}
    (root / "film.py").write_text(CONFIG % told)
    return root


def start(root, out, *, processes=2):
    """Starts launch/local.sh on eight devices; it prints to OUT/logs."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    cache = jax.config.jax_compilation_cache_dir
    told = {"PROCESSES": processes, "DEVICES": 8 // processes, "PORT": port, "LOGS": out / "logs"}
    env = os.environ | {name: str(value) for name, value in told.items()}
    env |= {"PATH": f"{pathlib.Path(sys.executable).parent}:{os.environ['PATH']}"}
    env |= {"XLA_FLAGS": "--xla_backend_optimization_level=0"}  # compiles sooner
    env |= {"PYTHONPATH": str(REPOSITORY), "SKYREELS_JAX_CACHE": str(cache)}
    command = ["bash", REPOSITORY / "launch" / "local.sh", "--config", root / "film.py"]
    options = {"env": env, "stderr": subprocess.PIPE, "text": True, "start_new_session": True}
    return subprocess.Popen([*command, "--out", out], **options)


def logs(out):
    return [(out / "logs" / f"process_{i}.log").read_text() for i in range(2)]


def ended(run, out):
    """Waits for the end; returns the exit code, and shows what was printed if a test fails."""
    try:
        _, said = run.communicate(timeout=900)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(run.pid, signal.SIGKILL)
        run.communicate()
    print(said, *logs(out), sep="\n----\n")
    return run.returncode


def state(out):
    """Returns (step, state) of the newest checkpoint."""
    return int(find_checkpoint(out).name), raw_state(out)


def assert_same(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(np.testing.assert_array_equal, a, b)


def losses(out):
    with (out / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["step"]) for row in rows] == list(range(1, STEPS + 1))
    return np.array([float(row["loss"]) for row in rows])


def first_checkpoint(run, out):
    """Waits until there is one."""
    deadline = time.monotonic() + 900
    while not (out / "checkpoints" / str(EVERY)).exists():
        assert time.monotonic() < deadline and run.poll() is None, ended(run, out)
        time.sleep(0.02)


def children(pid):
    found = pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(child) for child in found]


@pytest.fixture(scope="module")
def whole(root):
    """A run of two processes that was never stopped."""
    assert ended(start(root, root / "whole"), root / "whole") == 0
    return root / "whole"


def test_two_processes_are_one(root, whole):
    one = root / "one"
    assert main(["train", "--config", str(root / "film.py"), "--out", str(one)]) == 0
    np.testing.assert_allclose(losses(whole), losses(one), atol=1e-5)
    assert losses(one)[-1] < 0.8 * losses(one)[0]
    (step, ours), (_, theirs) = state(whole), state(one)
    assert step == STEPS
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), ours, theirs)
    assert (whole / "export" / "model_index.json").is_file()
    films = [iio.imread(run / "samples" / f"{STEPS:08d}.png").astype(int) for run in (whole, one)]
    assert np.abs(films[0] - films[1]).mean() < 1 and films[0].std() > 1
    # One of them makes the data, prints and writes.
    first, second = logs(whole)
    assert "encode" in first and str(whole / "export") in first and "step 24 of 24" in first
    for said in ("encode", "parameters", "export", "step 24"):
        assert said not in second, said


@pytest.mark.slow
def test_sigterm_stops_both_after_the_same_step(root, whole):
    out = root / "stopped"
    run = start(root, out)
    first_checkpoint(run, out)
    # To one of them alone: the other has to hear of it.
    os.kill(children(run.pid)[1], signal.SIGTERM)
    asked = time.monotonic()
    assert ended(run, out) == 0
    assert time.monotonic() - asked < 60
    step, _ = state(out)
    assert EVERY <= step < STEPS and not (out / "export").exists()
    assert ended(start(root, out), out) == 0
    assert_same(state(out), state(whole))
    np.testing.assert_array_equal(losses(out), losses(whole))


@pytest.mark.slow
@pytest.mark.parametrize("lost", [0, 1])
def test_a_lost_process_ends_the_other_and_the_run_goes_on(root, whole, lost):
    out = root / f"lost_{lost}"
    run = start(root, out)
    first_checkpoint(run, out)
    os.kill(children(run.pid)[lost], signal.SIGKILL)
    killed = time.monotonic()
    assert ended(run, out) != 0
    assert time.monotonic() - killed < 150
    said = logs(out)[1 - lost]
    assert "Gloo" in said or "heartbeat" in said or "coordination service" in said
    step, _ = state(out)
    assert EVERY <= step < STEPS
    assert ended(start(root, out), out) == 0
    assert_same(state(out), state(whole))
    np.testing.assert_array_equal(losses(out), losses(whole))
