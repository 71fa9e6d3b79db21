"""How long loading weights takes and how much memory: ours, diffusers, and a plain read.

python benchmarks/load.py [--layers 8] [--width 1536] [--ffn_dim 8960] [--dtype float32] [--json]

A transformer with random weights is written in diffusers form (float32), then each side loads it in
new processes in turns; the file is in the page cache for all. Measured: the seconds from a process
that has its imports to all weights in memory, and by how many bytes its resident memory grew at
most, also as a multiple of the file (`memory_ratio`). `ratio` is ours / diffusers. What could be
reached at most is the plain read.
Needs the extra "test" (diffusers and torch).
"""

import json
import pathlib
import sys
import tempfile

from machine import memory_from_here
from side_by_side import OURS, add_dtype, fresh, parse, parser, show, summary
from transformer import add_sizes, write
from worker import timed

SIDES = (OURS, "diffusers", "plain_read")


def loader(side: str, folder: pathlib.Path, dtype: str):
    """Returns the function that loads, its imports done."""
    if side == OURS:
        import jax

        from skyreels_jax.models import layout

        jax.devices()
        component = layout.read_component(folder, "transformer")

        def ours():
            model = layout.load_component(component, dtype=dtype)
            return jax.block_until_ready(jax.tree.leaves(model))

        return ours
    if side == "diffusers":
        import torch
        from diffusers import SkyReelsV2Transformer3DModel as Model

        return lambda: Model.from_pretrained(folder, torch_dtype=getattr(torch, dtype))
    return lambda: [path.read_bytes() for path in sorted(folder.glob("*.safetensors"))]


def measured(side: str, folder: pathlib.Path, dtype: str) -> dict:
    """Returns [seconds, processor seconds], and by how many bytes memory grew."""
    load = loader(side, folder, dtype)
    grown = memory_from_here()
    times, kept = timed(load)
    found = {"times": times, "bytes": grown()}
    del kept
    return found


def main() -> None:
    made = parser(__doc__, runs=3)
    add_sizes(made, layers=8)
    add_dtype(made)
    args = parse(made)
    if args.worker:
        print(json.dumps(measured(args.worker, pathlib.Path(args.folder), args.dtype)))
        return
    times: dict[str, list] = {side: [] for side in SIDES}
    memory: dict[str, list[int]] = {side: [] for side in SIDES}
    with tempfile.TemporaryDirectory() as folder:
        size = write(folder, args)
        for _ in range(args.runs):
            for side in SIDES:
                flags = [*sys.argv[1:], "--folder", folder, "--worker", side]
                found = fresh(__file__, flags)
                times[side].append(found["times"])
                memory[side].append(found["bytes"])
    case = summary(times, "diffusers")
    for side in SIDES:
        case[side] |= {"bytes": memory[side], "memory_ratio": max(memory[side]) / size}
        case[f"memory_ratio_{side}"] = case[side]["memory_ratio"]
    result = {"peer": "diffusers", "threads": args.threads, "file_bytes": size}
    show(result | {"cases": {"load": case}, "ratio": case["ratio"]}, args)


if __name__ == "__main__":
    main()
