"""`skyreels-jax train`: stopped by a signal it saves first; what cannot be saved is not begun."""

import collections
import dataclasses
import gc
import os
import pathlib
import shutil
import signal
import threading
import time

import jax
import numpy as np
import pytest
from test_train import VAE

from skyreels_jax.checkpoint import Checkpoints
from skyreels_jax.cli.main import main
from skyreels_jax.cli.recipes import run
from skyreels_jax.cli.recipes.base import recipe_for
from skyreels_jax.cli.recipes.model import abstract_weights
from skyreels_jax.cli.recipes.vae import VAERecipe
from skyreels_jax.cli.train import read_config
from skyreels_jax.core.config import from_dict
from skyreels_jax.core.errors import UserError
from skyreels_jax.data.loader import RandomCrop
from skyreels_jax.testing.raw_state import raw_state
from skyreels_jax.training.config import TrainConfig
from skyreels_jax.training.reporter import Reporter

FLOW_DPO = str(pathlib.Path(__file__).parents[2] / "configs" / "toy" / "flow_dpo.py")


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
        begun = time.monotonic()
        assert main([*args, "--out", str(out), *more]) == code
        assert time.monotonic() - begun < 120  # no more than a step and a checkpoint
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


def test_a_signal_while_data_are_made_ends_with_that_code_too(root, args, monkeypatch, capfd):
    codes, ended = [], threading.Event()
    monkeypatch.setattr(os, "_exit", lambda code: (codes.append(code), ended.set()))

    def loader(self, config):
        os.kill(os.getpid(), signal.SIGTERM)
        assert ended.wait(30)
        raise UserError("further than that it does not come")

    monkeypatch.setattr(VAERecipe, "loader", loader)
    assert main([*args, "--out", str(root / "early"), "--stopped_code", "75"]) == 2
    assert codes == [75] and "stopped; the same command goes on" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("start=runs/found", "runs/found holds no checkpoints; train that run first (legal as"),
        ("start=runs/found", "a hub id, which this is not, for there is a folder runs)"),
        ("start=runs/begun", "no checkpoint under runs/begun/checkpoints yet"),
        ("start=runs/empty", "not a model folder"),
        ("optimizer.policies=[{'paths': 'encodr/.*'}]", "'encodr/.*' matches no parameter path"),
        ("keep=2000000000", "make room"),
    ],
)
def test_what_is_wrong_is_said_before_data_are_made(
    args, tmp_path, monkeypatch, capfd, setting, message
):
    monkeypatch.setattr(VAERecipe, "loader", pytest.fail)
    monkeypatch.setattr("huggingface_hub.snapshot_download", pytest.fail)
    (tmp_path / "runs" / "begun" / "checkpoints").mkdir(parents=True)
    (tmp_path / "runs" / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    assert main([*args, "--out", str(tmp_path / "out"), "--set", setting]) == 2
    assert message in capfd.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_run_holds_one_state_and_goes_on_without_its_start(root, tmp_path, monkeypatch):
    values = from_dict(TrainConfig, read_config(str(root / "vae.py")))
    recipe = recipe_for(values.kind)
    config = recipe.resolve(values)
    one = dataclasses.replace(config.stages[0], steps=1)
    start = dataclasses.replace(config, out=str(tmp_path / "start"), stages=(one,))
    assert run.train(recipe, start)

    def held():
        gc.collect()
        return collections.Counter(leaf.shape for leaf in jax.live_arrays())

    counts, add = [], Reporter.add

    def look(self, step, metrics):
        counts.append(held())
        if step == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        add(self, step, metrics)

    monkeypatch.setattr(Reporter, "add", look)
    changed = {"out": str(tmp_path / "run"), "start": str(tmp_path / "start" / "checkpoints" / "1")}
    changed["save_every"] = 100  # on CPU a save is of copies
    config, before = dataclasses.replace(config, **changed), held()
    assert not run.train(recipe, config)
    shutil.rmtree(tmp_path / "start")
    assert run.train(recipe, config)
    assert len(counts) == 9
    state = raw_state(tmp_path / "run")
    state = collections.Counter(np.shape(leaf) for leaf in jax.tree.leaves(state))
    for shape in {leaf.shape for leaf in jax.tree.leaves(abstract_params(config))}:
        assert {count[shape] - before[shape] for count in counts} == {state[shape]}, shape


def abstract_params(config):
    kernels = abstract_weights(recipe_for(config.kind), config)
    return [leaf for leaf in jax.tree.leaves(kernels) if leaf.ndim > 3]  # vectors are batches' too


@pytest.mark.parametrize(
    ("out", "message"),
    [
        ("/dev/null/run", "cannot write to '/dev/null/run': Not a directory"),
        ("gs://bucket/run", "gs://bucket/run is no folder; mount a share on which"),
    ],
)
def test_where_nothing_can_be_written(args, capfd, monkeypatch, out, message):
    monkeypatch.setattr(run, "_begun", pytest.fail)
    assert main([*args, "--out", out]) == 2
    assert message in capfd.readouterr().err


def test_motion_learning_is_refused_before_others_are_waited_for(monkeypatch, capfd):
    monkeypatch.setattr("skyreels_jax.parallel.hosts.join", pytest.fail)
    for told in (["auto"], ["here:1", "--host_count", "2", "--host_index", "1"]):
        assert main(["train", "--config", FLOW_DPO, "--hosts", *told]) == 2
        error = capfd.readouterr().err
        assert "--hosts: one process makes the films of flow_dpo" in error
        assert error.count("\n") == 1


def test_many_processes_need_a_mesh(root, monkeypatch):
    values = from_dict(TrainConfig, read_config(str(root / "vae.py")))
    recipe = recipe_for(values.kind)
    monkeypatch.setattr("jax.process_count", lambda: 2)
    with pytest.raises(UserError, match="2 processes train as one.*mesh.fsdp=-1"):
        run.placed(recipe, recipe.resolve(values))
