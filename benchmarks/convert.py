"""How much memory `skyreels-jax convert` takes, of a synthetic run with the shapes of a real model.

python benchmarks/convert.py [--json]      # 1.3B: 6 GB of disk and as much again, twice
python benchmarks/convert.py --layers 32 --width 256 --ffn_dim 3072

A checkpoint is converted to a diffusers folder and that to an Orbax one, each in a process of its
own, which has converted a micro model before. What is measured is by how much its resident memory
then grows at most (`growth`, bytes), against the largest group of tensors that is written
(`group_bytes`): all layers of one kind of kernel, which are one array in Orbax. No converter can
take less, so `ratio` is growth / group, the larger of the two conversions; there is no peer.
"""

import argparse
import json
import pathlib
import shutil
import sys
import tempfile

from machine import memory_from_here
from side_by_side import OURS, fresh, parse, parser, show
from transformer import add_sizes, config_of
from worker import timed

STEPS = (("run", "diffusers"), ("diffusers", "orbax"))


def measured(source: pathlib.Path, target: pathlib.Path) -> dict:
    """Converts; returns [seconds, processor seconds], and by how many bytes memory grew."""
    from skyreels_jax.pipelines.convert import convert
    from skyreels_jax.testing.micro import write_micro_model

    with tempfile.TemporaryDirectory() as folder:  # all modules are there now
        first = pathlib.Path(folder)
        convert(write_micro_model(first / "micro"), first / "orbax", form="orbax")
        convert(first / "orbax", first / "diffusers", form="diffusers")
    grown = memory_from_here()
    times, _ = timed(lambda: convert(source, target, form=target.name))
    return {"times": times, "growth": grown()}


def converted(root: pathlib.Path, source: str, form: str, args: argparse.Namespace) -> dict:
    """Returns the case of a conversion, done `args.runs` times."""
    seconds, growth = [], []
    for _ in range(args.runs):
        shutil.rmtree(root / form, ignore_errors=True)
        flags = ["--worker", OURS, "--folder", str(root), "--convert", source, form]
        found = fresh(__file__, [*sys.argv[1:], *flags])
        seconds.append(found["times"])
        growth.append(found["growth"])
    written = sum(p.stat().st_size for p in (root / form).rglob("*") if p.is_file())
    ours = {"seconds": [t[0] for t in seconds], "processor_seconds": [t[1] for t in seconds]}
    return {OURS: ours, "growth": max(growth), "written": written}


def main() -> None:
    made = parser(__doc__, runs=1)
    add_sizes(made, layers=30)
    made.add_argument("--dir", help="where the folders are made, and removed again")
    made.add_argument("--convert", nargs=2, help=argparse.SUPPRESS)
    args = parse(made)
    if args.worker:
        source, form = (pathlib.Path(args.folder, name) for name in args.convert)
        print(json.dumps(measured(source, form)))
        return
    from skyreels_jax.testing.synthetic import write_synthetic_run

    cases = {}
    with tempfile.TemporaryDirectory(dir=args.dir) as folder:
        root = pathlib.Path(folder)
        group = write_synthetic_run(root / "run", config_of(args))
        for source, form in STEPS:
            case = cases[f"{source} to {form}"] = converted(root, source, form, args)
            case["memory_ratio"] = case["growth"] / group
            shutil.rmtree(root / source)
    ratio = max(case["memory_ratio"] for case in cases.values())
    show({"threads": args.threads, "group_bytes": group, "cases": cases, "ratio": ratio}, args)


if __name__ == "__main__":
    main()
