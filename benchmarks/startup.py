"""How long it takes until something happens: import, --help, first films, in new processes.

python benchmarks/startup.py [--runs 3] [--model tiny] [--json]

"first film cold": a new process with an empty compilation cache, from start to file. "warm": the
same with the cache of the process before. "in process": a second film of a process that made one.
Every number is of whole processes but the last. `ratio` is warm against in process; there is no
peer. The shared caches of the user are not touched.
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile

from film import PROMPT, add_film
from side_by_side import OURS, fresh, parse, parser, show
from worker import timed


def command(flags: list[str], cache: str | None = None) -> list[float]:
    """Returns [seconds, processor seconds of the process] of Python with these flags."""
    env = dict(os.environ) | ({"SKYREELS_JAX_CACHE": cache} if cache else {})
    before = os.times()
    times, done = timed(
        lambda: subprocess.run(
            [sys.executable, *flags], env=env, capture_output=True, text=True, check=False
        )
    )
    if done.returncode:
        raise SystemExit(done.stderr)
    after = os.times()
    used = after.children_user + after.children_system
    return [times[0], used - before.children_user - before.children_system]


def film(args: argparse.Namespace, folder: str, number: int) -> list[str]:
    """Returns the flags of Python that make a film."""
    out = str(pathlib.Path(folder, f"films{number}"))
    sizes = [f"--inference_steps={args.inference_steps}", f"--num_frames={args.num_frames}"]
    model = [] if args.model == "tiny" else ["--model_id", args.model]
    words = ["-m", "skyreels_jax", "generate", "--prompt", PROMPT, "--outdir", out, *model]
    return [*words, *sizes]


def in_process(args: argparse.Namespace) -> dict:
    """Returns the seconds of a second, third, ... film of this process."""
    import skyreels_jax as sr

    model = sr.load(args.model)

    def make(number: int) -> None:
        options = {"inference_steps": args.inference_steps, "num_frames": args.num_frames}
        made = model.generate(PROMPT, seed=number, **options)
        with tempfile.TemporaryDirectory() as folder:
            made.save(f"{folder}/film.mp4")

    make(0)
    return {"times": [timed(lambda n=n: make(n))[0] for n in range(1, args.runs + 1)]}


def main() -> None:
    made = parser(__doc__, runs=3)
    add_film(made)
    args = parse(made)
    if args.worker:
        print(json.dumps(in_process(args)))
        return
    found: dict[str, list[list[float]]] = {
        name: [] for name in ("import", "--help", "first film cold", "first film warm")
    }
    with tempfile.TemporaryDirectory() as folder:
        for number in range(args.runs):
            found["import"].append(command(["-c", "import skyreels_jax"]))
            found["--help"].append(command(["-m", "skyreels_jax", "--help"]))
            if not number:
                found["first film cold"].append(command(film(args, folder, 0), f"{folder}/cache"))
            warm = film(args, folder, number + 1)
            found["first film warm"].append(command(warm, f"{folder}/cache"))
        cache = {"SKYREELS_JAX_CACHE": f"{folder}/cache"}
        again = fresh(__file__, [*sys.argv[1:], "--worker", OURS], env=cache)
    found["in process"] = again["times"]
    cases = {
        name: {OURS: {"seconds": [t[0] for t in all_], "processor_seconds": [t[1] for t in all_]}}
        for name, all_ in found.items()
    }
    warm, inside = (
        statistics.median(cases[name][OURS]["seconds"])
        for name in ("first film warm", "in process")
    )
    cases["first film warm"]["to_in_process"] = warm / inside
    show({"threads": args.threads, "cases": cases, "ratio": warm / inside}, args)


if __name__ == "__main__":
    main()
