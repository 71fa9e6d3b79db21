"""Signals that end a run: after the running step, the same one on all processes."""

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from skyreels_jax.core.signals import Signals
from skyreels_jax.parallel.placement import Placement


class Stop(Signals):
    """Signals, and whether one of them has come to any process."""

    def __init__(self, placement: Placement | None = None):
        super().__init__("stopping after this step; saving a checkpoint")
        self._agree = None if jax.process_count() == 1 else _Agreement(placement)

    def due(self) -> bool:
        """Returns whether to end; to be asked before every step. All processes are told the same:
        whether one of them had a signal before the question before this one.
        """
        asked = self.noted is not None
        return asked if self._agree is None else self._agree(asked)

    def now(self) -> bool:
        """Returns whether a signal has come to any process; unlike `due`, it waits for them all."""
        return self.due() or self.due()


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
