"""Signals that end a run: after the running step, the same one on all processes."""

import os
import signal
import threading
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from skyreels_jax.parallel.placement import Placement


class Stop:
    """While it is open, SIGINT and SIGTERM are noted in `signal` and end nothing, but a second
    SIGINT interrupts at once (main thread only).
    """

    def __init__(self, placement: Placement | None = None):
        self.signal: int | None = None
        self._old: dict = {}
        self._agree = None if jax.process_count() == 1 else _Agreement(placement)

    def __enter__(self) -> "Stop":
        if threading.current_thread() is threading.main_thread():
            for name in (signal.SIGINT, signal.SIGTERM):
                self._old[name] = signal.signal(name, self._handle)
        return self

    def __exit__(self, *_: Any) -> None:
        for name, handler in self._old.items():
            signal.signal(name, handler)

    def due(self) -> bool:
        """Returns whether to end; to be asked before every step. All processes are told the same:
        whether one of them had a signal before the question before this one.
        """
        asked = self.signal is not None
        return asked if self._agree is None else self._agree(asked)

    def _handle(self, number: int, _: Any) -> None:
        if self.signal is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.signal = number
        # Not print: a signal may come while something else is being printed.
        os.write(2, b"\nstopping after this step; saving a checkpoint\n")


class _Agreement:
    """Answers one question late, so that nobody waits for the device."""

    def __init__(self, placement: Placement):
        self.sharding = NamedSharding(placement.mesh, PartitionSpec(placement.mesh.axis_names))
        self.any = jax.jit(lambda told: told.any(), out_shardings=placement.whole)
        self.before: jax.Array | None = None

    def __call__(self, asked: bool) -> bool:
        own = np.full(jax.local_device_count(), asked)
        told = jax.make_array_from_process_local_data(self.sharding, own)
        before, self.before = self.before, self.any(told)
        return before is not None and bool(before)
