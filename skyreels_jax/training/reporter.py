"""What a run says while it goes on: a bar on terminals, else lines (stdout), and rows for its
writers.
"""

import sys
from collections.abc import Mapping, Sequence

import jax
from tqdm import tqdm

from skyreels_jax.training.config import TrainConfig
from skyreels_jax.training.meter import Meter
from skyreels_jax.training.metrics import Skips, window_mean
from skyreels_jax.training.writers import Image, Writer

_SHOWN = ("loss", "psnr", "implicit_accuracy", "grad_norm", "clips_per_second", "ms_per_step")
_SHOWN += ("mfu", "data_wait", "save_ms", "device_gb", "host_gb")


class Reporter:
    """Fetches the metrics of steps from the device a window at a time, one step late."""

    def __init__(self, config: TrainConfig, writers: Sequence[Writer], meter: Meter, step: int):
        self.every, self.total = config.log_every, config.total_steps
        self.writers, self.meter, self.step = writers, meter, step
        self.skips = Skips(config.max_skipped)
        self.window: list = []
        self.due: tuple[int, list] | None = None
        self.lines = not sys.stderr.isatty()
        if meter.of and jax.process_index() == 0:
            print(f"mfu is of {meter.of}", flush=True)
        self.bar = tqdm(
            total=self.total, initial=step, unit="step", file=sys.stderr, disable=self.lines
        )

    def add(self, step: int, metrics: dict[str, jax.Array]) -> None:
        """Takes the metrics of a step that may still run."""
        self._fetch()
        self.window.append(metrics)
        self.step = step
        self.bar.update(1)
        if step % self.every == 0:
            self._end_window()

    def image(self, step: int, name: str, image: Image) -> None:
        """Takes a picture that was made after a step."""
        for writer in self.writers:
            writer.image(step, name, image)

    def flush(self) -> None:
        """Ends the window here, and waits until all is written."""
        self._fetch()
        if self.window:
            self._end_window()
            self._fetch()

    def close(self) -> None:
        """Closes bar and writers."""
        self.bar.close()
        for writer in self.writers:
            writer.close()

    def _end_window(self) -> None:
        self.due, self.window = (self.step, self.window), []

    def _fetch(self) -> None:
        if self.due is None:
            return
        (step, window), self.due = self.due, None
        rows = jax.device_get(window)
        self.skips.add(rows)
        row = window_mean(rows) | self.meter.read()
        for writer in self.writers:
            writer.write(step, row)
        self._show(step, {name: f"{row[name]:.4g}" for name in _SHOWN if name in row})

    def _show(self, step: int, texts: Mapping[str, str]) -> None:
        self.bar.set_postfix(texts, refresh=False)
        if self.lines and jax.process_index() == 0:
            words = "  ".join(f"{name} {text}" for name, text in texts.items())
            print(f"step {step} of {self.total}  {words}", flush=True)
