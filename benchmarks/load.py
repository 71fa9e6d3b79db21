"""How long loading weights takes and how much memory: ours, diffusers, and a plain read.

python benchmarks/load.py [--layers 8] [--width 1536] [--ffn_dim 8960] [--dtype float32] [--json]

A transformer with random weights is written in diffusers form (float32), then each side loads it in
new processes in turns; the file is in the page cache for all. Measured: the seconds from a process
that has its imports to all weights in memory, and by how many bytes its resident memory grew at
most, also as a multiple of the file (`memory_ratio`). `ratio` is ours / diffusers.
Needs the extra "test" (diffusers and torch).
"""

import argparse
import json
import pathlib
import sys
import tempfile

from side_by_side import OURS, fresh, memory_from_here, parser, show, summary, timed

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
    load = loader(side, folder, dtype)
    grown = memory_from_here()
    times, kept = timed(load)
    found = {"times": times, "bytes": grown()}
    del kept
    return found


def write(folder: pathlib.Path, args: argparse.Namespace) -> int:
    """Writes the transformer; returns the bytes of its weights on disk."""
    from skyreels_jax.models import layout
    from skyreels_jax.models.dit.config import DiTConfig
    from skyreels_jax.testing.micro import random_params

    head = min(128, args.width)
    config = DiTConfig(
        num_attention_heads=args.width // head,
        attention_head_dim=head,
        ffn_dim=args.ffn_dim,
        num_layers=args.layers,
        text_dim=args.text_dim,
    )
    layout.save_component(folder, "transformer", config, random_params("transformer", config))
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))


def main() -> None:
    made = parser(__doc__, runs=3)
    made.add_argument("--layers", type=int, default=8)
    made.add_argument("--width", type=int, default=1536, help="a multiple of 128, or less")
    made.add_argument("--ffn_dim", type=int, default=8960)
    made.add_argument("--text_dim", type=int, default=4096)
    made.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    args = made.parse_args()
    if args.worker:
        print(json.dumps(measured(args.worker, pathlib.Path(args.folder), args.dtype)))
        return
    times: dict[str, list] = {side: [] for side in SIDES}
    memory: dict[str, list[int]] = {side: [] for side in SIDES}
    with tempfile.TemporaryDirectory() as folder:
        size = write(pathlib.Path(folder), args)
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
    result = {"file_bytes": size, "cases": {"load": case}, "ratio": case["ratio"]}
    show(result, args, title=f"file: {size / 2**20:.0f} MiB")


if __name__ == "__main__":
    main()
