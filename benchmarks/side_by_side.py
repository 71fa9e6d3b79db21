"""What the benchmarks share: sides that take turns, peaks, memory, one table and one JSON object.

A side is a function of the arguments that returns its cases by name. Each side lives in a process
of its own and they run one case after the other in turns, so that a machine whose speed drifts is
the same for all. Ratios are medians over neighbouring turns, ours / peer (below 1: ours is faster),
by the clock and by the time of all processors, which others on the machine blur less.
"""

import argparse
import contextlib
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

OURS = "ours"
PEAK = "matmul"  # the case that says what the machine can do


class Case(NamedTuple):
    """Something to time: `run()` returns when it is done, with an array or None; or why not."""

    run: Callable[[], Any] | None
    flops: float | None = None
    refused: str = ""


Cases = Mapping[str, Case]
Side = Callable[[argparse.Namespace], Cases]


def parser(about: str, *, runs: int = 5) -> argparse.ArgumentParser:
    """Returns a parser with what all have; `about` is the docstring of the script."""
    made = argparse.ArgumentParser(
        description=about, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--runs", type=int, default=runs, help=f"turns of each side (default {runs})")
    made.add_argument("--json", action="store_true", help="print one JSON object")
    made.add_argument("--worker", help=argparse.SUPPRESS)
    made.add_argument("--folder", help=argparse.SUPPRESS)
    return made


def add_device(made: argparse.ArgumentParser, *, dtype: bool = True) -> None:
    """Adds what scripts with a torch side take."""
    made.add_argument("--threads", type=int, default=2, help="torch's threads (default 2)")
    if dtype:
        made.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))


def clocks() -> tuple[float, float]:
    """Returns the time by the clock and that of this process on all processors, in seconds."""
    return time.perf_counter(), time.process_time()


def timed(run: Callable[[], Any]) -> tuple[list[float], Any]:
    """Returns [seconds, processor seconds] of `run`, and what it gave."""
    begin = clocks()
    found = run()
    return [b - a for a, b in zip(begin, clocks(), strict=True)], found


def work(side: str, sides: Mapping[str, Side], args: argparse.Namespace) -> None:
    """Is the process of a side: says its cases, then runs those that stdin names."""
    answers, sys.stdout = sys.stdout, sys.stderr  # libraries print what they like
    cases = dict(sides[side](args))
    for case in cases.values():
        if case.run is not None:
            case.run()  # compiles
    told = {name: [case.flops, case.refused] for name, case in cases.items()}
    print(json.dumps(told), file=answers, flush=True)
    for line in sys.stdin:
        name, path = json.loads(line)
        times, found = timed(cases[name].run)
        if path and isinstance(found, np.ndarray):
            np.save(path, found)
        print(json.dumps(times), file=answers, flush=True)


@contextlib.contextmanager
def workers(script: str, sides: Mapping[str, Side], flags: Sequence[str]) -> Iterator[dict]:
    """Gives (process, cases) by side; ends the processes."""
    made = {}
    try:
        for side in sides:  # one after the other: compilers need the machine for themselves
            process = subprocess.Popen(
                [sys.executable, script, *flags, "--worker", side],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            made[side] = process, {}
            if not (line := process.stdout.readline()):
                raise SystemExit(f"{side} failed to start; its error is above")
            made[side][1].update(json.loads(line))
        yield made
    finally:
        for process, _ in made.values():
            process.stdin.close()
            process.wait()


def compare(
    script: str,
    sides: Mapping[str, Side],
    args: argparse.Namespace,
    *,
    flags: Sequence[str] = (),
    agreement: Callable[[np.ndarray, np.ndarray], dict] | None = None,
) -> dict:
    """Runs all cases of all sides in turns; returns the result that `show` prints.

    flags: for the processes, behind those of this one. agreement: what to say of the arrays of a
    case of ours and of the first other side; by default their largest difference, relative.
    """
    agreement = agreement or difference
    peer = next(side for side in sides if side != OURS)
    found: dict[str, dict] = {}
    with (
        tempfile.TemporaryDirectory() as scratch,
        workers(script, sides, [*sys.argv[1:], *flags]) as made,
    ):
        told = {side: cases for side, (_, cases) in made.items()}
        for name in dict.fromkeys(name for cases in told.values() for name in cases):
            able = [s for s in sides if name in told[s] and not told[s][name][1]]
            times: dict[str, list] = {side: [] for side in able}
            for turn in range(args.runs):
                for side in able:
                    process = made[side][0]
                    last = turn == args.runs - 1
                    path = f"{scratch}/{side}.npy" if last else ""
                    print(json.dumps([name, path]), file=process.stdin, flush=True)
                    times[side].append(json.loads(process.stdout.readline()))
            found[name] = summary(times, peer)
            for side, cases in told.items():
                if name in cases and cases[name][1]:
                    found[name][side] = {"refused": cases[name][1]}
                elif side in able:
                    own = told.get(OURS, {}).get(name, [None])[0]
                    found[name][side]["flops"] = cases[name][0] or own
            paths = [pathlib.Path(scratch, f"{side}.npy") for side in (OURS, peer)]
            if all(path.exists() for path in paths):
                found[name] |= agreement(*(np.load(path) for path in paths))
            for path in pathlib.Path(scratch).iterdir():
                path.unlink()
    return with_peak({"peer": peer, "cases": found})


def summary(times: Mapping[str, list[list[float]]], peer: str) -> dict:
    """Returns seconds by side, and the ratios of ours and the peer's (`ratio`) and other sides'."""
    found: dict[str, Any] = {
        side: {"seconds": [t[0] for t in all_], "processor_seconds": [t[1] for t in all_]}
        for side, all_ in times.items()
    }
    for side in times:
        if side == OURS or OURS not in times:
            continue
        end = "" if side == peer else f"_{side}"
        for index, kind in enumerate(("ratio", "processor_ratio")):
            pairs = zip(times[OURS], times[side], strict=True)
            found[kind + end] = statistics.median(a[index] / max(b[index], 1e-9) for a, b in pairs)
    return found


def difference(ours: np.ndarray, theirs: np.ndarray) -> dict:
    """Returns the largest difference, relative to the largest value."""
    if ours.shape != theirs.shape:
        raise SystemExit(f"the sides gave {ours.shape} and {theirs.shape}")
    most = max(float(np.abs(theirs).max()), 1e-30)
    return {"difference": float(np.abs(ours.astype(np.float64) - theirs).max()) / most}


def with_peak(result: dict) -> dict:
    """Adds `peak` (operations a second) and what share of it each case reaches, if that is known.

    The peak is that of the case PEAK, the better of the sides; or of the device, where it is named.
    """
    peak = result["cases"].pop(PEAK, None)
    if peak is None:
        return result
    sides = [s for s in peak.values() if isinstance(s, dict) and "seconds" in s]
    most = max(s["flops"] / min(s["seconds"]) for s in sides)
    result["peak"] = {"flops_per_second": most, "of": "a product of two matrices in this run"}
    for case in result["cases"].values():
        for side in case.values():
            if isinstance(side, dict) and side.get("flops"):
                side["peak_fraction"] = side["flops"] / statistics.median(side["seconds"]) / most
    return result


def jax_matmul(dtype: str, size: int = 2048) -> Case:
    """Returns the case PEAK in jax."""
    import jax
    import jax.numpy as jnp

    x = jnp.ones((size, size), dtype)
    product = jax.jit(jnp.matmul)

    def run() -> None:
        product(x, x).block_until_ready()

    return Case(run, 2.0 * size**3)


def torch_matmul(dtype: str, device: str, size: int = 2048) -> Case:
    """Returns the case PEAK in torch."""
    import torch

    x = torch.ones((size, size), dtype=getattr(torch, dtype), device=device)

    def run() -> None:
        x @ x
        torch_wait(device)

    return Case(run, 2.0 * size**3)


def torch_device(threads: int) -> str:
    """Returns torch's device: the first GPU, or else the CPU with this many threads."""
    import torch

    torch.set_num_threads(threads)
    return "cuda" if torch.cuda.is_available() else "cpu"


def torch_wait(device: str) -> None:
    """Waits until the device is done."""
    import torch

    if device == "cuda":
        torch.cuda.synchronize()


def numpy_of(x: Any) -> np.ndarray:
    """Returns an array of jax or torch as float32 numpy, when it is done."""
    if hasattr(x, "detach"):
        x = x.detach().float().cpu().numpy()
    return np.asarray(x, np.float32)


def show(result: dict, args: argparse.Namespace, *, title: str = "") -> None:
    """Prints the result as one JSON object or as a table."""
    if args.json:
        print(json.dumps(result))
        return
    if title:
        print(title)
    print(f"{'case':26} {'side':14} {'min':>9} {'median':>9} {'max':>9}   of peak")
    for name, case in result["cases"].items():
        for side, told in case.items():
            if not isinstance(told, dict):
                continue
            if "refused" in told:
                print(f"{name:26} {side:14} not run: {told['refused']}")
                continue
            values = sorted(told["seconds"])
            row = (values[0], statistics.median(values), values[-1])
            share = f"{told['peak_fraction']:8.0%}" if "peak_fraction" in told else ""
            print(f"{name:26} {side:14} " + " ".join(f"{v:8.3f}s" for v in row) + share)
        extra = {k: v for k, v in case.items() if not isinstance(v, dict)}
        if extra:
            print(f"{'':26} " + ", ".join(f"{k} {v:.3g}" for k, v in extra.items()))
    if peak := result.get("peak"):
        print(f"peak: {peak['flops_per_second'] / 1e9:.0f} GFLOP/s, {peak['of']}")


def compiled_for(
    topology: str, programs: Mapping[str, tuple[Callable, tuple, float | None]]
) -> dict:
    """Compiles for the first device of a TPU topology that need not be there; runs nothing.

    programs: (function, abstract arguments, operations) by name. Returns bytes of memory and the
    seconds of the operations at the peak of the chip, which is no time that was measured.
    """
    from skyreels_jax.cli.planning.chips import topology as find

    chip, devices = find(topology)
    import jax

    where = jax.sharding.SingleDeviceSharding(devices[0])
    cases = {}
    for name, (function, arguments, flops) in programs.items():
        arguments = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where), arguments
        )
        try:
            told = jax.jit(function).lower(*arguments).compile().memory_analysis()
        except Exception as error:  # what a kernel cannot do, compilers say in their own ways
            cases[name] = {"refused": first_line(error)}
            continue
        cases[name] = {
            "held_gib": (told.argument_size_in_bytes + told.output_size_in_bytes) / 2**30,
            "temporary_gib": told.temp_size_in_bytes / 2**30,
        }
        if flops:
            cases[name]["seconds_at_peak"] = flops / chip.flops
    return {"topology": topology, "cases": cases}


def first_line(error: Exception) -> str:
    """Returns why something was refused, briefly."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:160]


def show_compiled_table(result: dict, args: argparse.Namespace) -> None:
    """Prints what `compiled_for` returned."""
    if args.json:
        print(json.dumps(result))
        return
    print(f"compiled for {result['topology']}, nothing ran")
    for name, told in result["cases"].items():
        said = (f"{k} {v}" if isinstance(v, str) else f"{k} {v:.3g}" for k, v in told.items())
        print(f"{name:26} " + ", ".join(said))


def fresh(script: str, flags: Sequence[str], *, env: Mapping[str, str] | None = None) -> dict:
    """Returns the last line of JSON that the script prints in a new process."""
    done = subprocess.run(
        [sys.executable, script, *flags],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **(env or {})},
    )
    if done.returncode:
        raise SystemExit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def memory_from_here() -> Callable[[], int]:
    """Returns a function that says by how many bytes this process has grown since, at most."""
    pathlib.Path("/proc/self/clear_refs").write_text("5")  # the peak is counted from here
    before = _status("VmRSS")
    return lambda: _status("VmHWM") - before


def _status(name: str) -> int:
    """Returns a number of bytes that Linux counts for this process."""
    for line in pathlib.Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return 1024 * int(line.split()[1])
    raise KeyError(name)
