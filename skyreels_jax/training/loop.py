"""fit(): the loop around the step - resume, progress, metrics, checkpoints, a clean stop."""

import contextlib
import pathlib
import signal
import sys
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from skyreels_jax.checkpoint import Checkpoints
from skyreels_jax.core.config import to_dict
from skyreels_jax.core.types import ALL_ROWS, Params, Rows
from skyreels_jax.core.version import code_version
from skyreels_jax.parallel.hosts import agreed, is_first
from skyreels_jax.parallel.placement import Placement
from skyreels_jax.training import resume
from skyreels_jax.training.config import StageConfig, TrainConfig
from skyreels_jax.training.meter import Flops, Meter
from skyreels_jax.training.plateau import Plateau, Watch
from skyreels_jax.training.reporter import Reporter
from skyreels_jax.training.state import TrainState
from skyreels_jax.training.step import TrainStep
from skyreels_jax.training.stop import Stop
from skyreels_jax.training.writers import Image, open_writers

# (stage, its index, which rows of every batch) -> iterator with get_state and set_state.
Loader = Callable[[StageConfig, int, Rows], Any]


class FitResult(NamedTuple):
    """state after the last step taken; finished is False when SIGTERM came, be it in the last step.

    It is True as well when `until` ended the run before its last step.
    """

    state: TrainState
    finished: bool


def fit(
    train_step: TrainStep,
    like: TrainState,
    begin: Callable[[], TrainState],
    *,
    rest: Any,
    config: TrainConfig,
    loader: Loader,
    folder: pathlib.Path,
    frozen: Any = None,
    until: Plateau | None = None,
    placement: Placement | None = None,
    flops: Flops | None = None,
    sample: Callable[[Params], Image] | None = None,
) -> FitResult:
    """Trains to the last step of `config.stages`, or until a metric has stopped rising.

    Starts from the newest checkpoint under `folder` if there is one, unless `config` has become
    another run's (`resume.changes` raises), or else from the state that `begin` makes, which nobody
    else may hold: it is donated. Writes folder/checkpoints (state, data position, resolved config),
    and gives metrics.csv and `config.writers` (of many processes the first does) what objective and
    `Meter` measure: a row for every `log_every` steps, or fewer before a checkpoint. A resumed run
    goes through the same numbers as one that was never stopped. SIGINT and SIGTERM save a
    checkpoint after the running step (of many processes: after the next one of all) and end the
    loop; SIGINT then raises `KeyboardInterrupt`, and a second one interrupts at once. Metrics are
    fetched from the device once a window and one step late, so that the device never waits for the
    host (but at checkpoints and once in each window of `until`).
    like: shapes and shardings of the state (`abstract_state`).
    rest, frozen: of every step, as in `make_train_step`.
    placement: of the state; None: it is on one device.
    flops: operations of a step on a batch.
    sample: makes a picture of the (averaged) parameters every `config.sample_every` steps.
    """
    jitted = _compiled(train_step, like, placement)
    resolved = to_dict(config)
    kept = {"keep": config.keep, "keep_every": config.keep_every}
    with Stop(placement) as stop:
        with Checkpoints(folder / "checkpoints", **kept) as checkpoints:
            step, state, data = _first(checkpoints, config, like, begin)
            folder.mkdir(parents=True, exist_ok=True)  # not before: `begin` may refuse its weights
            batches, total = _Batches(config, loader, step, data, placement), config.total_steps
            writers = open_writers(config, folder, step=step) if step < total else []
            meter = Meter(flops=flops, devices=1 if placement is None else placement.mesh.size)
            reporter = Reporter(config, writers, meter, step)
            watch, seen, opened = Watch(until, data.get("watched", [])), set(), -1

            def save() -> None:
                reporter.flush()  # no step that a checkpoint has is missing in its rows
                with meter.saving(state):
                    position = {**batches.position(), "watched": watch.values()}
                    checkpoints.save(step, state, data=position, config=resolved)

            with contextlib.closing(reporter):
                while step < total and not stop.due() and not watch.over():
                    opening, opened = opened, config.stage_at(step)[0]
                    fresh = meter.paused(state) if opening != opened else contextlib.nullcontext()
                    with fresh, meter.waiting():
                        batch, size = batches.next(step)
                    first = _is_new(batch, seen)
                    with meter.paused(state) if first else contextlib.nullcontext():
                        with _on(placement):
                            state, metrics = jitted(state, batch, rest, frozen)
                        if first:  # the compiler's time is no step's
                            jax.block_until_ready(metrics)
                    step += 1
                    reporter.add(step, metrics)
                    if not first:
                        meter.add(batch, size)
                    watch.add(metrics)
                    if sample is not None and step % config.sample_every == 0:
                        with meter.paused(state):
                            _show(sample, state, placement, reporter, step)
                    if step % config.save_every == 0:
                        save()
                save()
        stopped = stop.now()
    finished = not stopped and (step >= total or watch.over())
    if stop.noted == signal.SIGINT and not finished:
        raise KeyboardInterrupt
    return FitResult(state, finished)


def _is_new(batch: Any, seen: set[str]) -> bool:
    """Returns whether the step has not had a batch of these shapes yet, which `seen` then has."""
    shapes, count = str(jax.tree.map(jnp.shape, batch)), len(seen)
    seen.add(shapes)
    return len(seen) > count


def _show(
    sample: Callable[[Params], Image],
    state: TrainState,
    placement: Placement | None,
    reporter: Reporter,
    step: int,
) -> None:
    """Gives `reporter` a picture of the parameters after a step; of many processes the first."""
    params = state.params if state.ema is None else state.ema
    if placement is not None:
        params = placement.gathered(params)
    if is_first():  # the others have no parameters
        reporter.image(step, "samples", sample(params))


def _first(
    checkpoints: Checkpoints, config: TrainConfig, like: TrainState, begin: Callable[[], TrainState]
) -> tuple[int, TrainState, dict]:
    """Returns the step, the state and the position in the data that a run goes on from."""
    if (step := agreed(checkpoints.latest())) is None:
        return 0, begin(), {}
    _tell_changes(checkpoints, step, config)
    return step, *checkpoints.restore(step, like)


def _tell_changes(checkpoints: Checkpoints, step: int, config: TrainConfig) -> None:
    """Prints in what a run that goes on from `step` is another now; raises as `resume.changes`."""
    changes = resume.changes(checkpoints.config(step), config, step)
    if (before := checkpoints.code(step)) not in (None, now := code_version()):
        changes.append(f"code: {before} -> {now}")
    for change in changes if is_first() else ():
        print(f"going on from step {step} with {change}", file=sys.stderr)


def _compiled(train_step: TrainStep, like: TrainState, placement: Placement | None) -> Any:
    """Returns the step as a program that keeps the state where it is."""
    options: dict[str, Any] = {"donate_argnums": 0, "compiler_options": compiler_options()}
    if placement is not None:
        options["out_shardings"] = (jax.tree.map(lambda x: x.sharding, like), placement.whole)
    return jax.jit(train_step, **options)


def _on(placement: Placement | None) -> contextlib.AbstractContextManager:
    """Returns the context in which activations are divided."""
    return contextlib.nullcontext() if placement is None else jax.set_mesh(placement.mesh)


def compiler_options() -> dict[str, str] | None:
    """XLA's options for the step; None for its defaults."""
    # On CPU XLA hands products to YNNPACK; for a training step its own are a fifth faster (jax
    # 0.10, two AVX-512 cores, the toy transformer: 1.44 s of processor time against 1.75 s a
    # gradient).
    if jax.default_backend() == "cpu":
        return {"xla_cpu_experimental_ynn_fusion_type": ""}
    return None


class _Batches:
    """The batch of any step: one iterator a stage, opened when its first step comes."""

    def __init__(
        self,
        config: TrainConfig,
        loader: Loader,
        step: int,
        data: dict,
        placement: Placement | None,
    ):
        self.config, self.loader, self.placement = config, loader, placement
        self.stage = -1
        self.iterator: Iterator | None = None
        if data and step < config.total_steps and config.stage_at(step)[0] == data["stage"]:
            self._open(data["stage"])
            self.iterator.set_state(data["iterator"])

    def next(self, step: int) -> tuple[Any, int]:
        stage, _ = self.config.stage_at(step)
        if stage != self.stage:
            self._open(stage)
        batch = next(self.iterator)
        if self.placement is not None:
            batch = self.placement.batch(batch)
        return batch, len(jax.tree.leaves(batch)[0])  # batches of a stage may differ in size

    def position(self) -> dict:
        state = self.iterator.get_state() if self.iterator is not None else {}
        return {"stage": self.stage, "iterator": state}

    def _open(self, stage: int) -> None:
        self.stage = stage
        said = self.config.stages[stage]
        rows = ALL_ROWS if self.placement is None else self.placement.rows(said.batch)
        self.iterator = iter(self.loader(said, stage, rows))
