"""Many processes as one: the only place where `jax.distributed` is initialised."""

import os

import jax

from skyreels_jax.core.errors import UserError

ALONE, AUTO = "alone", "auto"
TIMEOUT = 300  # seconds until a process gives up to wait for the others


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
    try:
        jax.distributed.initialize(
            **(told if named else {}), initialization_timeout=_seconds("SKYREELS_JAX_JOIN_TIMEOUT")
        )
    except (RuntimeError, ValueError) as error:
        raise UserError(f"--hosts {hosts}: {str(error).splitlines()[0]}") from error


def _seconds(name: str) -> int:
    return int(os.environ.get(name, TIMEOUT))
