"""Where numbers go: event files that a resume does not double, W&B, pictures, lines."""

import csv
import dataclasses
import struct
import sys
import types

import imageio.v3 as iio
import jax.numpy as jnp
import numpy as np
import pytest

from skyreels_jax.core.errors import UserError
from skyreels_jax.training.config import DataConfig, OptimizerConfig, StageConfig, TrainConfig
from skyreels_jax.training.meter import Meter
from skyreels_jax.training.reporter import Reporter
from skyreels_jax.training.writers import check_writers, open_writers


def config(**options):
    return TrainConfig(
        kind="vae",
        out="unused",
        model=None,
        objective=None,
        data=DataConfig(),
        stages=(StageConfig(steps=20, batch=4),),
        optimizer=OptimizerConfig(),
        **{"log_every": 2, **options},
    )


def events(folder):
    """What TensorBoard shows of a folder: (step, name) -> number or width of the picture."""
    from tensorboardX.proto.event_pb2 import Event

    shown = {}
    for path in sorted(folder.iterdir(), key=lambda path: path.stat().st_mtime_ns):
        data = path.read_bytes()
        while data:  # records: length, its checksum, the event, its checksum
            (length,) = struct.unpack("<Q", data[:8])
            event, data = Event.FromString(data[12 : 12 + length]), data[16 + length :]
            if event.HasField("session_log"):
                shown = {key: value for key, value in shown.items() if key[0] < event.step}
            for value in event.summary.value:
                assert (event.step, value.tag) not in shown
                shown[event.step, value.tag] = value.simple_value or value.image.width
    return shown


def test_tensorboard_shows_each_step_of_a_resumed_run_once(tmp_path):
    for start, steps in ((0, (2, 4, 6)), (4, (6, 8))):  # killed behind the checkpoint of step 4
        writers = open_writers(config(), tmp_path, step=start)
        for step in steps:
            for writer in writers:
                writer.write(step, {"loss": start + step / 8})
        writers[1].image(steps[-1], "samples", np.zeros((8, 16, 3), np.uint8))
        for writer in writers:
            writer.close()
    losses = {2: 0.25, 4: 0.5, 6: 4.75, 8: 5.0}
    want = {(step, "loss"): value for step, value in losses.items()} | {(8, "samples"): 16}
    assert events(tmp_path / "tensorboard") == want
    with (tmp_path / "metrics.csv").open(newline="") as file:
        assert {int(row["step"]): float(row["loss"]) for row in csv.DictReader(file)} == losses


@pytest.fixture
def wandb(monkeypatch):
    """A module that takes note of what W&B would be told."""

    class Run:
        def __init__(self, **options):
            self.options, self.rows, self.open = options, [], True
            runs.append(self)

        def log(self, row, *, step):
            self.rows.append((step, row))

        def finish(self):
            self.open = False

    runs = []
    module = types.ModuleType("wandb")
    module.__spec__ = types.SimpleNamespace(name="wandb")
    module.init, module.Image, module.runs = Run, lambda pixels: pixels.shape, runs
    monkeypatch.setitem(sys.modules, "wandb", module)
    return module


def test_wandb_goes_on_in_its_run_and_begins_anew_with_a_new_one(tmp_path, wandb):
    for step in (0, 4, 0):
        *_, writer = open_writers(config(writers=("wandb",)), tmp_path, step=step)
        writer.write(step + 2, {"loss": 0.5})
        writer.image(step + 2, "samples", np.zeros((8, 16, 3), np.uint8))
        writer.close()
    first, second, third = wandb.runs
    assert first.options["id"] == second.options["id"] != third.options["id"]
    assert second.options["resume"] == "allow"
    assert second.options["config"]["optimizer"]["learning_rate"] == 2e-3
    assert second.rows == [(6, {"loss": 0.5}), (6, {"samples": (8, 16, 3)})]
    assert not any(run.open for run in wandb.runs)


def test_a_writer_whose_package_is_missing_is_refused(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    check_writers(())
    with pytest.raises(UserError, match="writers: wandb needs the package wandb; pip install"):
        check_writers(("wandb",))


def metrics(loss, count=1.0):
    values = {"loss": loss, "skipped": 0.0, "mse_q0": loss * count, "mse_q0:count": count}
    return {name: jnp.float32(value) for name, value in values.items()}


def test_a_bin_without_samples_is_no_number_and_a_full_one_the_mean_of_its_samples(tmp_path):
    writers = open_writers(config(writers=()), tmp_path, step=0)
    reporter = Reporter(config(), writers, Meter(), 0)
    for step, row in enumerate(
        (metrics(1.0, 0.0), metrics(4.0, 0.5), metrics(2.0, 0.0), metrics(3.0, 0.0), metrics(1.0)),
        start=1,
    ):
        reporter.add(step, row)
    reporter.image(5, "samples", np.full((2, 3, 3), 7, np.uint8))
    reporter.flush()
    reporter.close()
    with (tmp_path / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["step"], row["loss"], row["mse_q0"]) for row in rows] == [
        ("2", "2.5", "4"),  # of the one step that had samples
        ("4", "2.5", ""),
        ("5", "1", "1"),
    ]
    assert (iio.imread(tmp_path / "samples" / "00000005.png") == 7).all()


def test_a_line_for_each_window_where_there_is_no_terminal(capfd, monkeypatch):
    for terminal in (False, True):
        monkeypatch.setattr(sys.stderr, "isatty", lambda terminal=terminal: terminal)
        reporter = Reporter(config(), [], Meter(), 2)
        reporter.add(3, metrics(1.0))
        reporter.meter.add({}, 4)
        reporter.add(4, metrics(2.0))
        reporter.flush()
        reporter.close()
        said = capfd.readouterr()
        if terminal:
            assert "4/20" in said.err.strip().splitlines()[-1] and not said.out
        else:
            (line,) = said.out.splitlines()
            assert not said.err
            assert line.startswith("step 4 of 20  loss 1.5  clips_per_second ")
            assert "  data_wait 0  " in line and "  host_gb " in line


def test_a_streak_of_skipped_steps_ends_the_run():
    """Counted over windows: three in a row, not three of four."""

    def skipped(reporter, step, value):
        reporter.add(step, metrics(1.0) | {"skipped": jnp.float32(value)})

    reporter = Reporter(dataclasses.replace(config(), max_skipped=3), [], Meter(), 0)
    for step, value in enumerate((1, 1, 0, 1, 1, 1), 1):
        skipped(reporter, step, value)
    with pytest.raises(UserError, match="3 steps in a row were not finite"):
        reporter.flush()
