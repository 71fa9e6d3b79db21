"""`skyreels-jax train`: stopped by a signal it saves first; what cannot be saved is not begun."""

import os
import shutil
import signal

import pytest
from test_train import VAE

from skyreels_jax.checkpoint import Checkpoints
from skyreels_jax.cli.main import main
from skyreels_jax.cli.recipes import run
from skyreels_jax.cli.recipes.base import recipe_for
from skyreels_jax.cli.train import read_config
from skyreels_jax.core.config import from_dict
from skyreels_jax.core.errors import UserError
from skyreels_jax.data.loader import RandomCrop
from skyreels_jax.training.config import TrainConfig


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("stop")
    (root / "vae.py").write_text((VAE % {"root": root}).replace('"steps": 3', '"steps": 9'))
    return root


@pytest.fixture
def args(root):
    return ["train", "--config", str(root / "vae.py")]


def test_a_signal_saves_first_and_the_exit_code_says_which(root, args, monkeypatch, capfd):
    map_clip, due = RandomCrop.random_map, []

    def with_signal(self, element, rng):
        if due:
            os.kill(os.getpid(), due.pop())
        return map_clip(self, element, rng)

    monkeypatch.setattr(RandomCrop, "random_map", with_signal)
    out, before = root / "stopped", 0
    for number, more, code, message in (
        (signal.SIGTERM, [], 0, "stopped; the same command goes on from here"),
        (signal.SIGTERM, ["--stopped_code", "75"], 75, "stopped; the same"),
        (signal.SIGINT, ["--stopped_code", "75"], 130, "skyreels-jax: interrupted"),
    ):
        due.append(number)
        assert main([*args, "--out", str(out), *more]) == code
        said = capfd.readouterr().err
        assert "saving a checkpoint" in said and message in said
        with Checkpoints(out / "checkpoints") as checkpoints:
            step = checkpoints.latest()
        assert before < step < 9
        before = step
    assert not (out / "export").exists()


def test_too_small_a_disk_is_told_before_anything_is_made(root, args, monkeypatch, capfd):
    usage = shutil.disk_usage("/")._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    monkeypatch.setattr(run, "fit", pytest.fail)
    out = root / "nothing"
    assert main([*args, "--out", str(out), "--set", "keep=4"]) == 2
    said = capfd.readouterr().err.strip().splitlines()[-1]
    assert "more for 5 checkpoints of" in said and "make room" in said
    assert not out.exists()


@pytest.mark.parametrize(
    ("out", "message"),
    [
        ("/dev/null/run", "cannot write to '/dev/null/run': Not a directory"),
        ("gs://bucket/run", "out: gs://bucket/run is no folder; mount the bucket"),
    ],
)
def test_where_nothing_can_be_written(args, capfd, monkeypatch, out, message):
    monkeypatch.setattr(run, "_begun", pytest.fail)
    assert main([*args, "--out", out]) == 2
    assert message in capfd.readouterr().err


def test_many_processes_need_a_mesh(root, monkeypatch):
    values = from_dict(TrainConfig, read_config(str(root / "vae.py")))
    recipe = recipe_for(values.kind)
    monkeypatch.setattr("jax.process_count", lambda: 2)
    with pytest.raises(UserError, match="2 processes train as one.*mesh.fsdp=-1"):
        run.placed(recipe, recipe.resolve(values))
