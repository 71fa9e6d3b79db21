"""What the TPU compiler's final schedule says of attention kernels, ours and jax's; needs no TPU.

python benchmarks/tpu_schedule.py [--chips v6e ...] [--kernels forward dq dkv] [--sides ours splash]
    [--tiles 1024/2048/512/256/2] [--splash_tiles 1024/1024/512] [--length 8192] [--json]

Compiles each kernel (bfloat16, 2 heads of 128, full attention) in a process of its own with
LIBTPU_INIT_ARGS="--xla_jf_dump_to=... --xla_jf_dump_llo_text=true" and reads its VLIW program, one
step of the grid. Printed are its bundles (static cycles), bundles for 2^20 scores, and the shares
of slots of the matrix units and of spilling stores that are used. How that counts:
- all of the program counts, also what runs once a row of tiles (beginning, end); the parts of a
  tile are unrolled in both kernels, so nothing in it runs more often than it is counted.
- ours is compiled without what masked tiles and unbounded scores need, which a program for full
  tiles does not run; splash's tile is block_q x block_kv, of which block_kv_compute is unrolled.
- a schedule knows no waits for memory, and an issue rate that the hardware may not sustain: on v5p
  matrix products come every 11 to 16 bundles where the vendor's peak allows 16.
--tiles are those of ours (queries/keys/part of queries/part of keys/ahead), by default the table's.
Compiling takes half a minute to some minutes each on two cores.
"""

import argparse
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
from typing import Any

from topology import compiler_variables

TOPOLOGIES = {"v5e": "v5e:2x2", "v5p": "v5p:2x2x1", "v6e": "v6e:2x2", "tpu7x": "tpu7x:2x2x1"}
KERNELS = ("forward", "dq", "dkv")
NAMES = {
    "ours": {name: f"attention_{name}" for name in KERNELS},
    "splash": {"forward": "splash_mha_fwd", "dq": "splash_mha_dq", "dkv": "splash_mha_dkv"},
}
HEADS, WIDTH = 2, 128
SLOTS = ("MXU", "XLU", "VALU", "VPOP", "EUP", "VLOAD", "FILL", "VSTORE", "SPILL", "SALU")


def compile_one(case: dict[str, Any]) -> None:
    """Compiles the kernel of `case` for its chip, in this process."""
    import jax
    import jax.numpy as jnp
    from jax.sharding import SingleDeviceSharding

    from skyreels_jax.cli.planning.chips import topology

    _, (device, *_) = topology(TOPOLOGIES[case["chip"]])
    placed = SingleDeviceSharding(device)

    def some(*shape: int, dtype: Any = jnp.bfloat16) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, dtype, sharding=placed)

    make = ours if case["side"] == "ours" else splash
    function, inputs = make(case, some)
    jax.jit(function).lower(*inputs).compile()


def ours(case: dict[str, Any], some: Any) -> tuple[Any, list[Any]]:
    """Returns our kernel and its inputs."""
    import jax.numpy as jnp

    from skyreels_jax.kernels.attention.tpu import backward, forward
    from skyreels_jax.kernels.attention.tpu.common import Plan
    from skyreels_jax.kernels.attention.tpu.tiles import Passes, Tiles

    tiles, length = Tiles(**case["tiles"]), case["length"]
    plan = Plan(
        queries=length,
        keys=length,
        block=None,
        biased=False,
        masked=False,
        scale=1.0,
        passes=Passes(forward=tiles, dq=tiles, dkv=tiles),
    )
    x, row = some(1, HEADS, length, WIDTH), some(1, HEADS, length, dtype=jnp.float32)
    lengths = some(1, dtype=jnp.int32)
    if case["kernel"] == "forward":
        turned = some(1, HEADS, WIDTH, length)

        def run(q, k, vt, n):
            return forward.forward(q, k, vt, length=n, bias=None, plan=plan, online=False)

        return run, [x, x, turned, lengths]
    which = backward.backward_dq if case["kernel"] == "dq" else backward.backward_dkv

    def back(q, k, v, do, lse, delta, n):
        return which(q, k, v, do, lse=lse, delta=delta, length=n, bias=None, plan=plan)

    return back, [x, x, x, x, row, row, lengths]


def splash(case: dict[str, Any], some: Any) -> tuple[Any, list[Any]]:
    """Returns jax's kernel (backward: all of its gradient) and its inputs."""
    import jax
    import jax.numpy as jnp
    from jax.experimental.pallas.ops.tpu import splash_attention as library

    length, (q, kv, part) = case["length"], (case["tiles"][n] for n in ("q", "kv", "part_kv"))
    sizes = library.BlockSizes(
        block_q=q, block_kv=kv, block_kv_compute=part, block_q_dkv=q, block_kv_dkv=kv,
        block_kv_dkv_compute=part, block_q_dq=q, block_kv_dq=kv,
    )  # fmt: skip
    kernel = library.make_splash_mha(
        library.MultiHeadMask([library.FullMask((length, length))] * HEADS),
        block_sizes=sizes,
        head_shards=1,
        q_seq_shards=1,
    )
    x = some(HEADS, length, WIDTH)
    if case["kernel"] == "forward":
        return kernel.__call__, [x, x, x]

    def total(q, k, v):
        return jnp.sum(kernel(q, k, v).astype(jnp.float32) ** 2)

    wanted = 0 if case["kernel"] == "dq" else (1, 2)  # the other kernel is dead code
    return jax.grad(total, wanted), [x, x, x]


def measure(case: dict[str, Any], *, limit: float) -> dict[str, Any]:
    """Returns what the schedule of `case` is, or why there is none."""
    with tempfile.TemporaryDirectory() as folder:
        env = os.environ | {
            "JAX_PLATFORMS": "cpu",
            "XLA_FLAGS": "",
            **compiler_variables(),
            "JAX_ENABLE_COMPILATION_CACHE": "false",
            "LIBTPU_INIT_ARGS": f"--xla_jf_dump_to={folder} --xla_jf_dump_llo_text=true",
        }
        command = [sys.executable, __file__, "--compile", json.dumps(case)]
        try:
            done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=limit)
        except subprocess.TimeoutExpired:
            return case | {"failed": f"not compiled in {limit:.0f} s"}
        name = NAMES[case["side"]][case["kernel"]]
        found = sorted(pathlib.Path(folder).glob(f"*{name}*final_hlo-static-per-bundle*"))
        if done.returncode or not found:
            lines = done.stderr.strip().splitlines() or ["no schedule was left"]
            said = next((x for x in lines[::-1] if re.search(r"Error|RESOURCE|vmem", x)), lines[-1])
            return case | {"failed": said[:200]}
        return case | schedule(found[-1].read_text(), case["tiles"]["q"] * case["tiles"]["kv"])


def schedule(text: str, scores: int) -> dict[str, Any]:
    """Returns the figures of a per-bundle utilization file of a kernel for a tile of `scores`."""
    head, rows = text.split("== UTILIZATION:\n")
    capacity = dict(zip(SLOTS, map(int, head.strip().splitlines()[-1].split()), strict=True))
    used = [
        dict(zip(SLOTS, map(int, row.split()), strict=True)) for row in rows.splitlines() if row
    ]
    shares = {n: sum(row[n] for row in used) / (len(used) * capacity[n]) for n in SLOTS}
    return {
        "bundles": len(used),
        "bundles_per_2_20_scores": round(len(used) * 2**20 / scores),
        **{name.lower(): round(shares[name], 3) for name in ("MXU", "VALU", "SPILL", "FILL")},
    }


def cases(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Returns all that is to be compiled."""
    import dataclasses

    from skyreels_jax.kernels.attention.tpu.tiles import TABLE, Tiles

    q, kv, part = map(int, args.splash_tiles.split("/"))
    said = {"q": q, "kv": kv, "part_q": q, "part_kv": part, "ahead": 0}
    found = []
    for chip in args.chips:
        for kernel in args.kernels:
            own = getattr(TABLE[chip], kernel)
            if args.tiles:
                fields = [field.name for field in dataclasses.fields(Tiles)]
                own = Tiles(**dict(zip(fields, map(int, args.tiles.split("/")), strict=True)))
            for side in args.sides:
                tiles = dataclasses.asdict(own) if side == "ours" else said
                about = {"chip": chip, "kernel": kernel, "side": side, "length": args.length}
                found.append(about | {"tiles": tiles})
    return found


def line(row: dict[str, Any]) -> str:
    tiles = "/".join(map(str, row["tiles"].values()))
    start = f"{row['chip']:6} {row['kernel']:8} {row['side']:7} {tiles:22}"
    if "failed" in row:
        return f"{start} {row['failed']}"
    ratio = f"{row['ratio']:7.2f}" if "ratio" in row else ""
    return (
        f"{start} {row['bundles']:8,} {row['bundles_per_2_20_scores']:9,} {row['mxu']:6.2f} "
        f"{row['valu']:6.2f} {row['spill']:6.2f}{ratio}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--chips", nargs="+", choices=TOPOLOGIES, default=["v5p", "v6e", "tpu7x"])
    parser.add_argument("--kernels", nargs="+", choices=KERNELS, default=KERNELS)
    parser.add_argument("--sides", nargs="+", choices=NAMES, default=list(NAMES))
    parser.add_argument("--tiles", help="ours: queries/keys/part of queries/part of keys/ahead")
    parser.add_argument(
        "--splash_tiles", default="1024/2048/1024", help="queries/keys/part of keys"
    )
    parser.add_argument("--length", type=int, default=8192)
    parser.add_argument("--limit", type=float, default=900, help="seconds a kernel may compile")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--compile", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.compile:
        return compile_one(json.loads(args.compile))
    rows: list[dict[str, Any]] = []
    if not args.json:
        print(
            f"{'chip':6} {'kernel':8} {'side':7} {'tiles':22} {'bundles':>8} {'per 2^20':>9} "
            f"{'MXU':>6} {'VALU':>6} {'spill':>6} {'ratio':>6}"
        )
    for case in cases(args):
        rows.append(measure(case, limit=args.limit))
        peer = [r for r in rows if (r["chip"], r["kernel"]) == (case["chip"], case["kernel"])]
        if len(peer) == 2 and not any("failed" in r for r in peer):
            first, second = (r["bundles_per_2_20_scores"] for r in peer)
            rows[-1]["ratio"] = round(first / second, 3)
        if not args.json:
            print(line(rows[-1]), flush=True)
    if args.json:
        print(json.dumps({"rows": rows}))
    failed = sum("failed" in row for row in rows)
    if failed:
        sys.exit(f"FAILED: {failed} of {len(rows)} were not compiled")


if __name__ == "__main__":
    main()
