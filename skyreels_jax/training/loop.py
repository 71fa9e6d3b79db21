"""fit(): the loop around the step - resume, progress, metrics, checkpoints, a clean stop."""

import contextlib
import pathlib
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
from tqdm import tqdm

from skyreels_jax.checkpoint import Checkpoints
from skyreels_jax.core.config import to_dict
from skyreels_jax.parallel.placement import Placement
from skyreels_jax.training import resume
from skyreels_jax.training.config import StageConfig, TrainConfig
from skyreels_jax.training.metrics import MetricsLog, Skips, window_mean
from skyreels_jax.training.plateau import Plateau, Watch
from skyreels_jax.training.state import TrainState
from skyreels_jax.training.step import TrainStep

# (stage, its index, which part of every batch, as in `Placement.rows`) -> iterator with get_state
# and set_state.
Loader = Callable[[StageConfig, int, tuple[int, int]], Any]
_SHOWN = ("loss", "psnr", "implicit_accuracy", "grad_norm")  # beside the progress bar


class FitResult(NamedTuple):
    """state after the last step taken; finished is False when a signal stopped the run early.

    It is True as well when `until` ended the run before its last step.
    """

    state: TrainState
    finished: bool


def fit(
    train_step: TrainStep,
    state: TrainState,
    *,
    rest: Any,
    config: TrainConfig,
    loader: Loader,
    folder: pathlib.Path,
    frozen: Any = None,
    until: Plateau | None = None,
    placement: Placement | None = None,
) -> FitResult:
    """Trains `state` to the last step of `config.stages`, or until a metric has stopped rising.

    Starts from the newest checkpoint under `folder` if there is one, unless `config` has become
    another run's (`resume.changes` raises). Writes folder/checkpoints
    (state, data position, resolved config) and folder/metrics.csv. A resumed run goes through the
    same numbers as one that was never stopped. SIGINT and SIGTERM save a checkpoint after the
    running step and end the loop; a second SIGINT interrupts at once. Metrics are fetched from the
    device once a window and one step late, so that the device never waits for the host (but once
    in each window of `until`). `state` must not be used afterwards: its buffers are donated.
    rest, frozen: of every step, as in `make_train_step`.
    placement: of `state`; None: it is on one device.
    """
    folder.mkdir(parents=True, exist_ok=True)
    jitted = _compiled(train_step, state, placement)
    resolved = to_dict(config)
    with Checkpoints(folder / "checkpoints", keep=config.keep) as checkpoints, _Stop() as stop:
        data: dict = {}
        if (latest := checkpoints.latest()) is not None:
            for change in resume.changes(checkpoints.config(latest), config, latest):
                print(f"going on from step {latest} with {change}", file=sys.stderr)
            state, data = checkpoints.restore(latest, state)
        step, total = latest or 0, config.total_steps
        batches = _Batches(config, loader, step, data, placement)
        reporter = _Reporter(config, MetricsLog(folder / "metrics.csv", step=step), step)
        watch = Watch(until, data.get("watched", []))

        def save() -> None:
            position = {**batches.position(), "watched": watch.values()}
            checkpoints.save(step, state, data=position, config=resolved)

        with contextlib.closing(reporter), _on(placement):
            while step < total and not stop.asked and not watch.over():
                batch, size = batches.next(step)
                state, metrics = jitted(state, batch, rest, frozen)
                step += 1
                reporter.add(step, metrics, size)
                watch.add(metrics)
                if step % config.save_every == 0:
                    save()
            reporter.flush()
            save()
    return FitResult(state, step >= total or watch.over())


def _compiled(train_step: TrainStep, state: TrainState, placement: Placement | None) -> Any:
    """Returns the step as a program that keeps the state where it is."""
    options: dict[str, Any] = {"donate_argnums": 0, "compiler_options": _compiler_options()}
    if placement is not None:
        options["out_shardings"] = (jax.tree.map(lambda x: x.sharding, state), placement.whole)
    return jax.jit(train_step, **options)


def _on(placement: Placement | None) -> contextlib.AbstractContextManager:
    """Returns the context in which activations are divided."""
    return contextlib.nullcontext() if placement is None else jax.set_mesh(placement.mesh)


def _compiler_options() -> dict[str, str] | None:
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
        rows = (0, 1) if self.placement is None else self.placement.rows(said.batch)
        self.iterator = iter(self.loader(said, stage, rows))


class _Reporter:
    """Progress line and metrics.csv: fetches device scalars a window at a time, one step late."""

    def __init__(self, config: TrainConfig, log: MetricsLog, step: int):
        self.every, self.log, self.skips = config.log_every, log, Skips(config.max_skipped)
        self.window: list = []
        self.due: tuple[int, list, int] | None = None
        self.clips, self.since = 0, time.perf_counter()
        quiet = not sys.stderr.isatty()
        self.bar = tqdm(
            total=config.total_steps,
            initial=step,
            unit="step",
            mininterval=15.0 if quiet else 0.5,
            file=sys.stderr,
        )

    def add(self, step: int, metrics: dict, clips: int) -> None:
        self._fetch()
        self.window.append(metrics)
        self.clips += clips
        self.bar.update(1)
        if step % self.every == 0:
            self.due = (step, self.window, self.clips)
            self.window, self.clips = [], 0

    def flush(self) -> None:
        self._fetch()
        if self.window:
            self.due = (self.bar.n, self.window, self.clips)
            self.window, self.clips = [], 0
            self._fetch()

    def close(self) -> None:
        self.bar.close()

    def _fetch(self) -> None:
        if self.due is None:
            return
        (step, window, clips), self.due = self.due, None
        rows = jax.device_get(window)
        self.skips.add(rows)
        row = window_mean(rows)
        now = time.perf_counter()
        row["clips_per_second"] = clips / (now - self.since)
        row["ms_per_step"] = 1e3 * (now - self.since) / len(window)
        self.since = now
        self.log.add({"step": step, **row})
        shown = {name: f"{row[name]:.4g}" for name in _SHOWN if name in row}
        self.bar.set_postfix({**shown, "clips/s": f"{row['clips_per_second']:.1f}"}, refresh=False)


class _Stop:
    """Turns SIGINT and SIGTERM into the flag `asked` while it is open (main thread only)."""

    def __init__(self):
        self.asked = False
        self.old: dict = {}

    def __enter__(self) -> "_Stop":
        if threading.current_thread() is threading.main_thread():
            for name in (signal.SIGINT, signal.SIGTERM):
                self.old[name] = signal.signal(name, self._handle)
        return self

    def __exit__(self, *_: Any) -> None:
        for name, handler in self.old.items():
            signal.signal(name, handler)

    def _handle(self, number: int, _: Any) -> None:
        if self.asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.asked = True
        print("\nstopping after this step; saving a checkpoint", file=sys.stderr)
