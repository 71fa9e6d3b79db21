"""The machine that benchmarks run on: its processors, torch's device, its peak, its memory."""

import os
import pathlib
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
from worker import Case

PEAK = "matmul"  # the case that says what the machine can do


def processors() -> int:
    """Returns how many processors this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def use_processors(count: int) -> None:
    """Leaves this process, and those that it starts, `count` processors: the same for all sides.

    XLA and torch start as many threads as they find processors; where a process cannot be kept to
    some of them (macOS) the variables alone say how many. Comes before either is imported.
    """
    if not 1 <= count <= processors():
        sys.exit(f"--threads {count}: this process may use 1 to {processors()} processors")
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:count])
    os.environ |= {"NPROC": str(count), "OMP_NUM_THREADS": str(count)}


def torch_device(threads: int) -> str:
    """Returns torch's device: the first GPU, or else the CPU with this many threads.

    On a GPU float32 products may be rounded as jax's are there (TF32).
    """
    import torch

    torch.set_num_threads(threads)
    torch.set_float32_matmul_precision("high")
    return "cuda" if torch.cuda.is_available() else "cpu"


def torch_wait(device: str) -> None:
    """Waits until the device is done."""
    import torch

    if device == "cuda":
        torch.cuda.synchronize()


def numpy_of(x: Any) -> np.ndarray:
    """Returns an array of jax or torch as float32 numpy; to compare, not to time."""
    if hasattr(x, "detach"):
        x = x.detach().float().cpu().numpy()
    return np.asarray(x, np.float32)


def matmul_size(on_cpu: bool) -> int:
    """Returns of which size products reach the peak: on a GPU small ones are over at once."""
    return 2048 if on_cpu else 8192


def jax_matmul(dtype: str) -> Case:
    """Returns the case PEAK in jax."""
    import jax
    import jax.numpy as jnp

    size = matmul_size(jax.default_backend() == "cpu")
    x = jnp.ones((size, size), dtype)
    product = jax.jit(jnp.matmul)

    def run() -> None:
        product(x, x).block_until_ready()

    return Case(run, 2.0 * size**3)


def torch_matmul(dtype: str, device: str) -> Case:
    """Returns the case PEAK in torch."""
    import torch

    size = matmul_size(device == "cpu")
    x = torch.ones((size, size), dtype=getattr(torch, dtype), device=device)

    def run() -> None:
        x @ x
        torch_wait(device)

    return Case(run, 2.0 * size**3)


def memory_from_here() -> Callable[[], int]:
    """Returns a function that says by how many bytes this process has grown since, at most."""
    if sys.platform != "linux":
        sys.exit("Linux alone says how much memory was held")
    pathlib.Path("/proc/self/clear_refs").write_text("5")  # the peak is counted from here
    before = _status("VmRSS")
    return lambda: _status("VmHWM") - before


def _status(name: str) -> int:
    """Returns a number of bytes that Linux counts for this process."""
    for line in pathlib.Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return 1024 * int(line.split()[1])
    raise KeyError(name)
