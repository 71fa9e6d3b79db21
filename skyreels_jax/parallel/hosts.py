"""Many processes as one: the only place where `jax.distributed` is initialised.

What one process is to do for all it does first, and the others wait for it.
"""

import contextlib
import os
import signal
import sys
import traceback
from collections.abc import Iterator

import jax
import numpy as np

from skyreels_jax.core.errors import UserError

ALONE, AUTO = "alone", "auto"
TIMEOUT = 300  # seconds until a process gives up to wait for the others
TURN = 7 * 24 * 3600  # seconds that what one does first may take; if that one dies, all hear of it
FAILED, BAD_INPUT = 1, 2


def join(hosts: str, *, count: int | None = None, index: int | None = None) -> None:
    """Makes this process one of a run's; before anything else asks jax for devices.

    hosts: "alone": it is the only one. "auto": the cluster says who else there is (SLURM, Cloud
    TPU, GKE, Open MPI). HOST:PORT: where process 0 listens; there are `count`, and this is number
    `index`. Raises `UserError` where these do not go together or the others do not come.
    """
    named = hosts not in (ALONE, AUTO)
    if named != (count is not None) or named != (index is not None):
        raise UserError(
            "--hosts HOST:PORT needs --host_count and --host_index; alone and auto take neither"
        )
    if hosts == ALONE:
        return
    if named and (":" not in hosts or not 0 <= index < count):
        raise UserError(
            f"--hosts {hosts} --host_count {count} --host_index {index}: legal are HOST:PORT and "
            "an index from 0 to the count less one"
        )
    told = {"coordinator_address": hosts, "num_processes": count, "process_id": index}
    # Inside a SLURM step jax would else take one device a process, whatever it is told.
    told |= {"cluster_detection_method": "deactivate"}
    try:
        jax.distributed.initialize(
            **(told if named else {}), initialization_timeout=_seconds("SKYREELS_JAX_JOIN_TIMEOUT")
        )
    except (RuntimeError, ValueError) as error:
        raise UserError(f"--hosts {hosts}: {str(error).splitlines()[0]}") from error
    # jax catches it, for a service that nobody asks here; a loop that wants it takes it.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def is_first() -> bool:
    """Returns whether this is the process that prints and writes for all."""
    return jax.process_index() == 0


def wait(what: str) -> None:
    """Returns when all processes have come here."""
    if (count := jax.process_count()) > 1:
        from orbax.checkpoint import multihost

        # Named processes: these meet at the coordinator, not on the devices, for which a program
        # would have to wait there, and time out, all the while.
        multihost.sync_global_processes(what, timeout=TURN, processes=set(range(count)))


def agreed(step: int | None) -> int | None:
    """Returns what the first process says; all have to ask. A folder that all share need not look
    the same to all at the same time.
    """
    if jax.process_count() == 1:
        return step
    from jax.experimental import multihost_utils

    said = multihost_utils.broadcast_one_to_all(np.int32(-1 if step is None else step))
    return None if said < 0 else int(said)


@contextlib.contextmanager
def in_turn(what: str) -> Iterator[None]:
    """All processes do what is inside, the others when the first is through, and has failed or left
    on disk what they need.
    """
    if not is_first():
        wait(what)
    try:
        yield
    finally:
        if is_first():
            wait(what)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Inside, standard output and progress bars are those of the first process; errors are all's.

    To be entered before anything imports tqdm.
    """
    if is_first():
        yield
        return
    os.environ["TQDM_DISABLE"] = "1"
    with contextlib.redirect_stdout(None):
        yield


@contextlib.contextmanager
def ending_at_once() -> Iterator[None]:
    """In a run of many processes an error inside ends this one there and then, with its reason on
    standard error: to say goodbye would be to wait for others, which may be gone.

    The others see it on their next exchange, or after 100 seconds without a sign of life.
    """
    try:
        yield
    except Exception as error:
        if jax.process_count() == 1:
            raise
        reason = " ".join(str(error).split())
        if isinstance(error, jax.errors.JaxRuntimeError):
            reason = f"{reason}; if another process is gone, its log says why"
        elif not isinstance(error, UserError):
            traceback.print_exc()
        index, count = jax.process_index(), jax.process_count()
        print(f"skyreels-jax: process {index} of {count}: {reason}", file=sys.stderr, flush=True)
        if sys.stdout is not None:  # `quiet` has taken it
            sys.stdout.flush()
        os._exit(BAD_INPUT if isinstance(error, UserError) else FAILED)


def _seconds(name: str) -> int:
    return int(os.environ.get(name, TIMEOUT))
