"""How both sides time, and how they tell."""

import json
import statistics
import time
import traceback


def tell(what: str, **values) -> None:
    """Prints a row for main.py."""
    print("ROW " + json.dumps({"what": what, **values}), flush=True)


def attempt(what: str, run) -> None:
    """Tells `run()`, a dict, as a row; what it raises is told as its failure."""
    try:
        tell(what, **run())
    except Exception as error:  # noqa: BLE001  the other rows are to be measured all the same
        traceback.print_exc()
        tell(what, failed=f"{type(error).__name__}: {str(error)[:300]}")


def milliseconds(run, wait, *, seconds: float = 1.5, most: int = 30) -> float:
    """Returns the median time of `run()`, after one call that is not counted.

    wait: takes what `run` gives and returns when it is there. Calls are timed in groups of two, so
    that the host's part overlaps with the device's, for about `seconds`.
    """
    wait(run())
    start = time.perf_counter()
    wait(run())
    once = time.perf_counter() - start
    groups = max(1, min(most, int(seconds / max(once, 1e-6)) // 2))
    found = []
    for _ in range(groups):
        start = time.perf_counter()
        run()
        wait(run())
        found.append((time.perf_counter() - start) / 2)
    return 1e3 * statistics.median(found)
