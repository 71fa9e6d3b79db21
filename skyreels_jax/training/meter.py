"""What steps cost: their time, the share of it without data, use of the devices, memory."""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax

from skyreels_jax.core.types import Batch
from skyreels_jax.training.peaks import peak

Flops = Callable[[Batch], int]  # operations of a training step on a batch, by formula


class Meter:
    """Measures the steps between two readings.

    flops: None: not known.  devices: how many share a step.  of: what "mfu" is a share of, to be
    read; "" where the peak of the devices is not known.
    """

    def __init__(self, *, flops: Flops | None = None, devices: int = 1):
        kind = jax.devices()[0].device_kind
        most = peak(kind)
        self._peak = None if most is None else most * devices
        self.of = f"{devices} x {most / 1e12:.0f} TFLOP/s ({kind}, bfloat16)" if most else ""
        self._flops_of = flops
        self._restart()

    def _restart(self) -> None:
        self._steps, self._clips, self._flops, self._waited, self._saved = 0, 0, 0, 0.0, 0.0
        self._since = time.perf_counter()

    def add(self, batch: Batch, clips: int) -> None:
        """Counts a step."""
        self._steps += 1
        self._clips += clips
        if self._flops_of is not None and self._peak is not None:
            self._flops += self._flops_of(batch)

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """What is done inside is waiting for data."""
        begin = time.perf_counter()
        yield
        self._waited += time.perf_counter() - begin

    @contextlib.contextmanager
    def paused(self, running: Any) -> Iterator[None]:
        """What is done inside, once the arrays `running` are there, is no part of any step."""
        jax.block_until_ready(running)
        begin, waited = time.perf_counter(), self._waited
        yield
        self._since += time.perf_counter() - begin
        self._waited = waited

    @contextlib.contextmanager
    def saving(self, running: Any) -> Iterator[None]:
        """What is done inside, once the arrays `running` are there, keeps the next step waiting; it
        is no part of any step's time, and is told with the steps after it.
        """
        with self.paused(running):
            begin = time.perf_counter()
            yield
            self._saved += time.perf_counter() - begin

    def read(self) -> dict[str, float]:
        """Returns the columns of the steps since the last reading, all of which are done, and
        memory now.

        "mfu" is there where both operations and peak are known: the share of the devices' bfloat16
        peak that the formula's operations are, whatever type is computed in. "save_ms" is there
        behind a checkpoint. Without a counted step there is memory only.
        """
        row, seconds = {}, time.perf_counter() - self._since
        if self._steps:
            row["clips_per_second"] = self._clips / seconds
            row["ms_per_step"] = 1e3 * seconds / self._steps
            row["data_wait"] = self._waited / seconds
            if self._flops:
                row["mfu"] = self._flops / seconds / self._peak
            if self._saved:
                row["save_ms"] = 1e3 * self._saved
        self._restart()
        return row | memory()


def memory() -> dict[str, float]:
    """Returns {"device_gb"}, the most that was in use at once on the fullest device of this
    process, or, where devices do not tell (CPUs), {"host_gb"}, the most that the process held.
    """
    told = [device.memory_stats() or {} for device in jax.local_devices()]
    if peaks := [stats["peak_bytes_in_use"] for stats in told if "peak_bytes_in_use" in stats]:
        return {"device_gb": max(peaks) / 1e9}
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return {"host_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9}
