"""What a process of a benchmark does: warms its cases up, times them, and reports.

There are two ways to be one. `work` runs cases in turns with other sides, as the process that
started it says (`side_by_side.compare`). `attempt` times by itself and prints rows, for sides that
cannot share a GPU (benchmarks/h200). Nothing but numpy is imported here: each side brings its own.
"""

import argparse
import json
import statistics
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np


class Case(NamedTuple):
    """Something to time: `run()` returns when its device is done; or why it does not run.

    flops: operations of a run, if they are known; refused: why it does not run (run is None).
    array: makes of what `run` gave the array that is compared with the other side's, which is not
    timed: fetching and casting are no part of what is measured. None: nothing is compared.
    """

    run: Callable[[], Any] | None
    flops: float | None = None
    refused: str = ""
    array: Callable[[Any], np.ndarray] | None = None


Cases = Mapping[str, Case]
Side = Callable[[argparse.Namespace], Cases]


def clocks() -> tuple[float, float]:
    """Returns the time by the clock and that of this process on all processors, in seconds."""
    return time.perf_counter(), time.process_time()


def timed(run: Callable[[], Any]) -> tuple[list[float], Any]:
    """Returns [seconds, processor seconds] of `run`, and what it gave."""
    begin = clocks()
    found = run()
    return [b - a for a, b in zip(begin, clocks(), strict=True)], found


def milliseconds(
    run: Callable[[], Any], wait: Callable[[Any], Any], *, seconds: float = 1.5, most: int = 30
) -> float:
    """Returns the median time of `run()`, after one call that is not counted.

    wait: takes what `run` gives and returns when it is there. Calls are timed in groups of two, so
    that the host's part overlaps with the device's, for about `seconds`; of calls that take longer
    than half of that there is one.
    """
    wait(run())
    (once, _), _ = timed(lambda: wait(run()))
    groups = min(most, int(seconds / max(once, 1e-6)) // 2)
    found = [timed(lambda: (run(), wait(run())))[0][0] / 2 for _ in range(groups)]
    return 1e3 * (statistics.median(found) if found else once)


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
        case = cases[name]
        times, found = timed(case.run)
        if path and case.array is not None:
            np.save(path, case.array(found))
        del found  # which the next run may need the memory of
        print(json.dumps(times), file=answers, flush=True)


def tell(what: str, **values: Any) -> None:
    """Prints a row."""
    print("ROW " + json.dumps({"what": what, **values}), flush=True)


def attempt(what: str, run: Callable[[], dict]) -> None:
    """Prints `run()` as a row; what it raises is told as its failure."""
    try:
        tell(what, **run())
    except Exception as error:  # noqa: BLE001  the other rows are to be measured all the same
        traceback.print_exc()
        tell(what, failed=f"{type(error).__name__}: {str(error)[:300]}")
