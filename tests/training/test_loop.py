"""The loop: bit-exact resume with the data's position, a clean stop, metrics, stages."""

import collections
import csv
import dataclasses
import gc
import signal
import time

import imageio.v3 as iio
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy_run
from toy_run import config, run

from skyreels_jax.checkpoint import Checkpoints
from skyreels_jax.core.config import to_dict
from skyreels_jax.core.errors import UserError
from skyreels_jax.data.selection import Balance
from skyreels_jax.parallel.mesh import MeshConfig
from skyreels_jax.training import resume
from skyreels_jax.training.config import DataConfig, OptimizerConfig, PolicyConfig, StageConfig
from skyreels_jax.training.metrics import MetricsLog, last_means
from skyreels_jax.training.optimizer import make_optimizer
from skyreels_jax.training.plateau import Plateau
from skyreels_jax.training.reporter import Reporter
from skyreels_jax.training.state import init_state


def assert_same(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(a), jax.device_get(b))


@pytest.mark.parametrize("cut", [3, 7, 9])
def test_a_resumed_run_is_the_same_to_the_bit(tmp_path, cut):
    whole_seen, seen = [], []
    whole = run(tmp_path / "whole", config(12), seen=whole_seen)
    # The first part is stopped by a signal in its step `cut`; its schedule is that of the whole.
    first = run(tmp_path / "cut", config(12), seen=seen, stop_after=cut)
    assert (first.finished, int(first.state.step)) == (False, cut)
    second = run(tmp_path / "cut", config(12), seen=seen)
    assert second.finished and whole.finished
    assert_same(whole.state, second.state)
    assert seen == whole_seen and len(seen) == 12


def test_one_state_is_held_at_a_time(tmp_path, monkeypatch):
    """In a fresh run and in one that goes on, which makes no first state."""

    def held():
        gc.collect()
        return collections.Counter(leaf.shape for leaf in jax.live_arrays())[4, 8]

    counts, add = [], Reporter.add
    monkeypatch.setattr(Reporter, "add", lambda *args: (counts.append(held()), add(*args)))
    before = held()
    first = run(tmp_path, config(9), stop_after=3)
    mirrors = sum(leaf.shape == (4, 8) for leaf in jax.tree.leaves(first.state))
    del first
    made = []
    monkeypatch.setattr(toy_run, "init_state", lambda *args, **options: made.append(1))
    run(tmp_path, config(9))
    own = mirrors + 1  # this file's `run` keeps the parameters
    assert len(counts) == 9 and {count - before for count in counts} == {own} and not made


def test_a_signal_in_the_last_step_ends_the_run_before_what_comes_then(tmp_path):
    assert not run(tmp_path, config(9), stop_after=9).finished
    assert run(tmp_path, config(9)).finished


@pytest.mark.parametrize("cut", [3, 9])
def test_a_divided_run_too(tmp_path, cut):
    settings = config(12, batches=(8, 16), mesh=MeshConfig(fsdp=8))
    whole_seen, seen = [], []
    whole = run(tmp_path / "whole", settings, seen=whole_seen)
    assert not run(tmp_path / "cut", settings, seen=seen, stop_after=cut).finished
    second = run(tmp_path / "cut", settings, seen=seen)
    assert_same(whole.state, second.state)
    assert second.state.params["kernel"].addressable_shards[0].data.shape == (4, 1)
    assert seen == whole_seen


def test_on_other_meshes_the_curve_goes_on(tmp_path, capfd):
    """8 devices, then 4, then 8 again."""
    eight, four = (
        config(12, batches=(8, 16), log_every=1, mesh=MeshConfig(fsdp=count)) for count in (8, 4)
    )
    whole_seen, seen = [], []
    whole = run(tmp_path / "whole", eight, seen=whole_seen)
    run(tmp_path / "parts", eight, seen=seen, stop_after=4)
    then = run(tmp_path / "parts", four, seen=seen, stop_after=5)
    assert len(then.state.params["kernel"].sharding.device_set) == 4
    last = run(tmp_path / "parts", eight, seen=seen)
    assert "step 4 with mesh.fsdp: 8 -> 4" in (said := capfd.readouterr().err)
    assert "step 9 with mesh.fsdp: 4 -> 8" in said
    assert last.finished and seen == whole_seen
    curves = []
    for folder in ("whole", "parts"):
        with (tmp_path / folder / "metrics.csv").open(newline="") as file:
            curves.append([(int(row["step"]), float(row["loss"])) for row in csv.DictReader(file)])
    np.testing.assert_allclose(*curves, atol=1e-5)
    for ours, theirs in zip(jax.tree.leaves(last.state), jax.tree.leaves(whole.state), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_sigint_saves_and_interrupts(tmp_path):
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, config(12), stop_after=5, stop_by=signal.SIGINT)
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        assert checkpoints.latest() == 5
    assert signal.getsignal(signal.SIGINT) is before


def test_what_a_save_costs_is_told_with_the_steps_behind_it(tmp_path):
    run(tmp_path, config(12, save_every=6))
    with (tmp_path / "metrics.csv").open(newline="") as file:
        told = {row["step"]: row["save_ms"] for row in csv.DictReader(file)}
    assert [step for step, cost in told.items() if cost] == ["9"]
    assert float(told["9"]) > 0


def test_other_code_is_told(tmp_path, capfd, monkeypatch):
    run(tmp_path, config(9), stop_after=2)
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        before = checkpoints.code(2)
    monkeypatch.setattr("skyreels_jax.training.loop.code_version", lambda: "other")
    run(tmp_path, config(9))
    assert f"going on from step 2 with code: {before} -> other" in capfd.readouterr().err


@pytest.mark.parametrize("cut", [None, 2, 6])
def test_a_run_ends_when_its_metric_is_flat(tmp_path, cut):
    # Nothing rises by 1000, so the first window behind the best one ends it: after two of three.
    flat = Plateau(metric="order", window=3, patience=1, gain=1000.0, floor=0.0)
    if cut is not None:
        assert not run(tmp_path, config(12), stop_after=cut, until=flat).finished or cut == 6
    for _ in range(2):  # and stays ended
        result = run(tmp_path, config(12), until=flat)
        assert result.finished and int(result.state.step) == 6
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        assert len(checkpoints.restore(6, result.state)[1]["watched"]) == 6


def test_metrics_continue_and_the_state_on_disk_is_the_state(tmp_path):
    run(tmp_path, config(12), stop_after=5)
    result = run(tmp_path, config(12))
    with (tmp_path / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    steps = [int(row["step"]) for row in rows]
    assert steps == sorted(set(steps)) and steps[-1] == 12
    columns = {"loss", "grad_norm", "skipped", "order", "clips_per_second", "ms_per_step"}
    assert columns | {"data_wait", "host_gb"} <= set(rows[0])
    assert all(0 <= float(row["data_wait"]) <= 1 for row in rows if row["data_wait"])
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        assert checkpoints.latest() == 12
        state, data = checkpoints.restore(12, result.state)
        assert data["stage"] == 1
        assert checkpoints.config(12)["optimizer"]["learning_rate"] == 0.01
    assert_same(state, result.state)


def test_a_checkpoint_ends_a_window_so_that_a_kill_behind_it_loses_no_row(tmp_path, monkeypatch):
    """Steps 1 to 5 are in rows, whatever comes after their checkpoint."""

    class Killed(Exception):
        pass

    calls, original = [], Checkpoints.save

    def save(self, step, *args, **options):
        original(self, step, *args, **options)
        calls.append(step)
        if len(calls) == 1:
            raise Killed

    monkeypatch.setattr(Checkpoints, "save", save)
    settings = config(12, save_every=5)
    with pytest.raises(Killed):
        run(tmp_path, settings)
    run(tmp_path, settings)
    with (tmp_path / "metrics.csv").open(newline="") as file:
        assert [int(row["step"]) for row in csv.DictReader(file)] == [3, 5, 6, 9, 10, 12]
    assert calls == [5, 10, 12]


def test_samples_are_of_the_averaged_weights_and_take_no_time_of_steps(tmp_path, monkeypatch):
    """The clock jumps by months while films are sampled."""

    def sample(params):
        jumps.append(1e7)
        given.append(jax.device_get(params))
        return np.full((4, 4, 3), len(given), np.uint8)

    given, jumps, clock = [], [], time.perf_counter
    monkeypatch.setattr(time, "perf_counter", lambda: clock() + sum(jumps))
    result = run(tmp_path, config(12, sample_every=6, kind="text_to_video"), sample=sample)
    assert len(given) == 2
    assert_same(given[1], result.state.ema)
    for step, number in ((6, 1), (12, 2)):
        assert (iio.imread(tmp_path / "samples" / f"{step:08d}.png") == number).all()
    with (tmp_path / "metrics.csv").open(newline="") as file:
        assert all(0 < float(row["ms_per_step"]) < 1e6 for row in csv.DictReader(file))


def test_a_finished_run_does_nothing(tmp_path):
    seen = []
    run(tmp_path, config(8), seen=seen)
    again = run(tmp_path, config(8), seen=seen)
    assert again.finished and len(seen) == 8


@pytest.mark.parametrize(
    "change, field",
    [
        ({"seed": 1}, "seed: 0 -> 1"),
        ({"data": DataConfig(clips=3)}, "data.clips: 4096 -> 3"),
        ({"data": DataConfig(fps=12)}, "data.fps: 0 -> 12"),
        ({"data": DataConfig(balance=Balance(attribute="shape"))}, "attribute:  -> shape"),
        ({"data": DataConfig(turns=0.5)}, "data.turns: 0.0 -> 0.5"),
        ({"data": DataConfig(faults=0.5)}, "data.faults: 0.0 -> 0.5"),
        ({"stages": (StageConfig(steps=7, batch=8),)}, "stages.0.batch: 4 -> 8"),
    ],
)
def test_a_run_cannot_become_another(tmp_path, change, field):
    run(tmp_path, config(12), stop_after=5)
    with pytest.raises(UserError, match=f"{field}.*at step 5; give another --out"):
        run(tmp_path, dataclasses.replace(config(12), **change))


def test_fields_of_data_that_a_kind_does_not_read_are_refused():
    data = DataConfig(clips=3, vae="vae", fps=12)
    data.check_read("some", ("clips", "vae", "fps"))
    with pytest.raises(UserError, match="some reads data.clips: leave out data.fps, vae"):
        data.check_read("some", ("clips",))


def test_fields_that_a_checkpoint_does_not_know_had_their_defaults():
    saved = to_dict(config(12))
    for name in ("rates", "fps", "balance"):
        del saved["data"][name]
    assert resume.changes(saved, config(12), 5) == []
    with pytest.raises(UserError, match="data.fps: 0 -> 16"):
        resume.changes(saved, config(12, data=DataConfig(fps=16)), 5)


def test_of_a_run_of_another_kind_nothing_else_is_said():
    saved = to_dict(config(12)) | {"kind": "reward", "seed": 5, "model": {"width": 8}}
    with pytest.raises(UserError, match="^kind: reward -> vae: not in a run that is at step 5; gi"):
        resume.changes(saved, config(12), 5)


def test_a_run_from_before_there_were_policies_goes_on():
    saved = to_dict(config(12))
    for name in ("max_skipped", "mesh", "remat"):
        del saved[name]
    del saved["optimizer"]["policies"]
    saved["optimizer"] |= {"frozen": ["a/.*"], "adam_paths": ["b", "c"]}
    rows = ({"paths": "a/.*", "frozen": True}, {"paths": "b", "adam": True})
    rows = tuple(PolicyConfig(**row) for row in (*rows, {"paths": "c", "adam": True}))
    now = dataclasses.replace(config(12).optimizer, policies=rows)
    assert resume.changes(saved, dataclasses.replace(config(12), optimizer=now), 5) == []
    assert resume.changes(saved, config(12, max_skipped=3), 5)[0] == "max_skipped: 20 -> 3"


def test_a_run_may_be_lengthened_and_says_so(tmp_path, capfd):
    run(tmp_path, config(9))
    assert int(run(tmp_path, config(12)).state.step) == 12
    assert "going on from step 9 with stages.1.steps: 2 -> 5" in capfd.readouterr().err


@pytest.mark.parametrize(("step", "legal"), [(3, (3, 7)), (7, (7, 2)), (9, (7, 2))])
def test_a_stage_may_be_shortened_to_what_was_taken_of_it(step, legal):
    saved, one = to_dict(config(12)), step > 7  # stages of 7 and 5 steps
    steps = list(legal)
    resume.changes(saved, of_steps(*steps), step)
    steps[one] -= 1
    with pytest.raises(UserError, match=f"stages.{int(one)}.steps = {steps[one]}.*no fewer"):
        resume.changes(saved, of_steps(*steps), step)


def of_steps(*steps):
    stages = config(12).stages
    stages = [dataclasses.replace(stage, steps=n) for stage, n in zip(stages, steps, strict=True)]
    return dataclasses.replace(config(12), stages=tuple(stages))


def test_a_row_cut_short_by_a_kill_is_dropped(tmp_path):
    path = tmp_path / "metrics.csv"
    path.write_text("step,loss\n3,0.5\n6,0.2")
    assert MetricsLog(path, step=6).rows == [{"step": "3", "loss": "0.5"}]


@pytest.mark.parametrize(
    "options, steps", [({}, [10, 12]), ({"keep": 1}, [12]), ({"keep_every": 4}, [4, 8, 10, 12])]
)
def test_checkpoints_are_kept_as_asked(tmp_path, options, steps):
    settings = config(12, save_every=2, **options)
    run(tmp_path, settings)
    kept = sorted(int(p.name) for p in (tmp_path / "checkpoints").iterdir() if p.name.isdigit())
    assert kept == steps and len(kept) < settings.checkpoints


@pytest.mark.parametrize("keep_every", [-2, 3])
def test_keep_every_is_a_multiple_of_save_every(keep_every):
    with pytest.raises(UserError, match="keep_every is 0 or a multiple of save_every = 2"):
        config(12, save_every=2, keep_every=keep_every)


def test_a_checkpoint_of_another_model_is_refused(tmp_path):
    run(tmp_path, config(7))
    other = init_state({"kernel": jnp.zeros((4, 5))}, make_optimizer_of_one(), ema=True)
    with (
        Checkpoints(tmp_path / "checkpoints") as checkpoints,
        pytest.raises(UserError, match="another model or optimizer"),
    ):
        checkpoints.restore(7, other)


def make_optimizer_of_one():
    return make_optimizer(OptimizerConfig(name="adam"), {"kernel": jnp.zeros((4, 5))}, 10)


def test_rows_of_lost_steps_are_dropped_and_new_columns_join(tmp_path):
    path = tmp_path / "metrics.csv"
    log = MetricsLog(path, step=0)
    for step in (1, 2, 3):
        log.write(step, {"loss": 1.0 / step})
    log = MetricsLog(path, step=2)
    log.write(3, {"loss": 0.25, "extra": 7})
    log.write(4, {"loss": 0.125})
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["step"] for row in rows] == ["1", "2", "3", "4"]
    assert [row["extra"] for row in rows] == ["", "", "7", ""]
    assert rows[2]["loss"] == "0.25"


def test_last_means_weigh_rows_by_their_steps(tmp_path):
    whole, cut = tmp_path / "whole.csv", tmp_path / "cut.csv"
    for path, rows in (
        (whole, ((2, 1.0), (4, 2.0), (6, 4.0))),
        (cut, ((2, 1.0), (3, 1.5), (4, 2.5), (6, 4.0))),
    ):
        log = MetricsLog(path, step=0)
        for step, value in rows:
            log.write(step, {"drift": value})
    assert last_means(whole, 4) == last_means(cut, 4) == (6, {"drift": 3.0})
    assert last_means(whole, 3) == (6, {"drift": (2.0 + 2 * 4.0) / 3})
    assert last_means(whole, 100) == (6, {"drift": 7 / 3})
