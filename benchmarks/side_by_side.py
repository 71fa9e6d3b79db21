"""The pair: sides that take turns, medians, ratios, one table and one JSON object.

A side is a function of the arguments that returns its cases by name. Each side lives in a process
of its own (`worker`), with the same processors, and they run one case after the other in turns, so
that a machine whose speed drifts is the same for all. Ratios are medians over neighbouring turns,
ours / peer (below 1: ours is faster), by the clock and by the time of all processors, which others
on the machine blur less. A side that ends early, or sides whose results differ, are a failure: it
is said, and the exit status is 1.
"""

import argparse
import contextlib
import functools
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from machine import PEAK, processors, use_processors
from worker import Side

OURS = "ours"
# How far results may differ, relative to the largest value; float32 with rounded products (TF32).
TOLERANCE = {"float32": 1e-2, "bfloat16": 1e-1}
# Says how two arrays agree, as values for the table, and what is wrong with that (or nothing).
Agreement = Callable[[np.ndarray, np.ndarray], tuple[dict[str, float], str]]


def parser(about: str, *, runs: int = 5) -> argparse.ArgumentParser:
    """Returns a parser with what all have; `about` is the docstring of the script."""
    made = argparse.ArgumentParser(
        description=about, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--runs", type=int, default=runs, help=f"turns of each side (default {runs})")
    made.add_argument(
        "--threads", type=int, default=processors(), help="processors of each side (default: all)"
    )
    made.add_argument("--json", action="store_true", help="print one JSON object")
    made.add_argument("--worker", help=argparse.SUPPRESS)
    made.add_argument("--folder", help=argparse.SUPPRESS)
    return made


def add_dtype(made: argparse.ArgumentParser) -> None:
    """Adds the type of numbers that both sides compute in."""
    made.add_argument("--dtype", default="float32", choices=TOLERANCE)


def parse(made: argparse.ArgumentParser) -> argparse.Namespace:
    """Returns the arguments; this process and its workers have the processors they say."""
    args = made.parse_args()
    if args.runs < 1:
        made.error(f"--runs {args.runs}: at least one")
    use_processors(args.threads)
    return args


class Worker:
    """A process that runs the cases of a side. cases: [operations or None, why refused] by name."""

    def __init__(self, script: str, side: str, flags: Sequence[str]):
        self._side = side
        self._process = subprocess.Popen(
            [sys.executable, script, *flags, "--worker", side],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            # Sides may share a GPU: none may hold what it does not use.
            env=os.environ | {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"},
        )
        self.cases: dict[str, list] = self._answer("it began")

    def run(self, case: str, path: str) -> list[float]:
        """Returns [seconds, processor seconds]; the array to compare goes to `path`, if any.

        Raises `SystemExit` where the process has ended.
        """
        with contextlib.suppress(BrokenPipeError):  # then there is no answer either
            print(json.dumps([case, path]), file=self._process.stdin, flush=True)
        return self._answer(case)

    def close(self) -> None:
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.wait()

    def _answer(self, doing: str) -> Any:
        if line := self._process.stdout.readline():
            return json.loads(line)
        status = self._process.wait()
        raise SystemExit(f"{self._side} ended ({status}) at: {doing}; its error is above")


@contextlib.contextmanager
def workers(script: str, sides: Sequence[str], flags: Sequence[str]) -> Iterator[dict[str, Worker]]:
    """Gives the processes by side, and ends them."""
    with contextlib.ExitStack() as stack:
        made = {}
        for side in sides:  # one after the other: compilers need the machine for themselves
            made[side] = Worker(script, side, flags)
            stack.callback(made[side].close)
        yield made


def compare(
    script: str,
    sides: Mapping[str, Side],
    args: argparse.Namespace,
    *,
    flags: Sequence[str] = (),
    agreement: Agreement | None = None,
) -> dict:
    """Runs all cases of all sides in turns; returns the result that `show` prints.

    flags: for the processes, behind those of this one. agreement: of the arrays of a case of ours
    and of the first other side; by default their largest difference, within `TOLERANCE`.
    """
    most = TOLERANCE[getattr(args, "dtype", "float32")]
    agreement = agreement or functools.partial(difference, most=most)
    peer = next(side for side in sides if side != OURS)
    result: dict[str, Any] = {"peer": peer, "threads": args.threads, "cases": {}, "failures": []}
    with (
        tempfile.TemporaryDirectory() as scratch,
        workers(script, list(sides), [*sys.argv[1:], *flags]) as made,
    ):
        told = {side: worker.cases for side, worker in made.items()}
        for name in dict.fromkeys(name for cases in told.values() for name in cases):
            refused = {s: told[s][name][1] for s in sides if name in told[s] and told[s][name][1]}
            able = [s for s in sides if name in told[s] and s not in refused]
            if OURS in refused:  # there is nothing to compare
                able = []
            times: dict[str, list] = {side: [] for side in able}
            paths = {side: pathlib.Path(scratch, f"{side}.npy") for side in able}
            for turn in range(args.runs):
                for side in able:
                    path = str(paths[side]) if turn == args.runs - 1 else ""
                    times[side].append(made[side].run(name, path))
            case = result["cases"][name] = summary(times, peer)
            for side in able:
                case[side]["flops"] = told[side][name][0] or told[OURS].get(name, [None])[0]
            case |= {side: {"refused": why} for side, why in refused.items()}
            if all(side in able and paths[side].exists() for side in (OURS, peer)):
                values, wrong = agreement(*(np.load(paths[side]) for side in (OURS, peer)))
                case |= values
                result["failures"] += [f"{name}: {wrong}"] if wrong else []
            for path in pathlib.Path(scratch).iterdir():
                path.unlink()
    return with_peak(result)


def summary(times: Mapping[str, list[list[float]]], peer: str) -> dict:
    """Returns seconds by side, and the ratios of ours and the peer's (`ratio`) and other sides'."""
    found: dict[str, Any] = {
        side: {"seconds": [t[0] for t in all_], "processor_seconds": [t[1] for t in all_]}
        for side, all_ in times.items()
    }
    for side in times:
        if side == OURS or OURS not in times:
            continue
        for index, kind in enumerate(("ratio", "processor_ratio")):
            pairs = zip(times[OURS], times[side], strict=True)
            ratio = statistics.median(a[index] / max(b[index], 1e-9) for a, b in pairs)
            found[kind if side == peer else f"{kind}_{side}"] = ratio
    return found


def difference(ours: np.ndarray, theirs: np.ndarray, *, most: float) -> tuple[dict, str]:
    """Returns the largest difference, relative to the largest value, and whether it is too much."""
    if ours.shape != theirs.shape:
        return {}, f"the sides gave arrays of {ours.shape} and {theirs.shape}"
    largest = max(float(np.abs(theirs).max()), 1e-30)
    found = float(np.abs(ours.astype(np.float64) - theirs).max()) / largest
    wrong = "" if found <= most else f"the sides differ by {found:.2g} of the largest value"
    return {"difference": found}, wrong  # NaN as well


def with_peak(result: dict) -> dict:
    """Adds `peak` (operations a second) and what share of it each case reaches, if that is known.

    The peak is that of the case PEAK, the better of the sides.
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


def show(result: dict, args: argparse.Namespace) -> None:
    """Prints the result as one JSON object or as a table; exits with 1 where something failed."""
    print(json.dumps(result) if args.json else table(result))
    if result.get("failures"):
        sys.exit("FAILED " + "; ".join(result["failures"]))


def table(result: dict) -> str:
    """Returns a row for each side of each case; ratios stand in the row of the other side."""
    lines = [
        f"{'case':24} {'side':14} {'min':>10} {'median':>10} {'max':>10} {'of peak':>8} "
        f"{'ours / it':>9} {'by CPU':>7}"
    ]
    for name, case in result["cases"].items():
        said = {k: v for k, v in case.items() if not isinstance(v, dict)}
        for side, told in case.items():
            if not isinstance(told, dict):
                continue
            end = "" if side == result.get("peer") else f"_{side}"
            ratios = [said.pop(f"{kind}{end}", None) for kind in ("ratio", "processor_ratio")]
            lines.append(f"{name:24} {side:14} {row(told, ratios)}".rstrip())
        if said:
            values = ", ".join(f"{key} {value:.3g}" for key, value in said.items())
            lines.append(f"{'':24} {values}")
    if peak := result.get("peak"):
        lines.append(f"peak: {peak['flops_per_second'] / 1e9:.0f} GFLOP/s, {peak['of']}")
    return "\n".join(lines)


def row(told: Mapping[str, Any], ratios: Sequence[float | None]) -> str:
    """Returns the cells of a side."""
    if "refused" in told:
        return f"not run: {told['refused']}"
    values = sorted(told["seconds"])
    cells = [f"{v:9.3g}s" for v in (values[0], statistics.median(values), values[-1])]
    cells.append(f"{told['peak_fraction']:8.0%}" if "peak_fraction" in told else f"{'':8}")
    widths = zip(ratios, (9, 7), strict=True)
    cells += [f"{'':{width}}" if r is None else f"{r:{width}.2f}" for r, width in widths]
    return " ".join(cells)


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
        raise SystemExit(f"{' '.join(flags)} failed:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])
