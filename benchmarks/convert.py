"""How much memory `skyreels-jax convert` takes, of a synthetic run with the shapes of a real model.

    python benchmarks/convert.py                      # 1.3B: 6 GB of disk and as much again, twice
    python benchmarks/convert.py --layers 32 --width 256 --ffn_dim 3072

A checkpoint is converted to a diffusers folder and that to an Orbax one, each in a process of its
own, which has converted a micro model before. What is measured is by how much its resident memory
then grows at most, in bytes, against the largest group of tensors that is written: all layers of
one kind of kernel, which are one array in Orbax. Prints one line of json for each conversion.
"""

import argparse
import json
import pathlib
import shutil
import tempfile

from side_by_side import fresh, memory_from_here, timed

HEAD = 128


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--layers", type=int, default=30)
    parser.add_argument("--width", type=int, default=1536, help=f"a multiple of {HEAD}")
    parser.add_argument("--ffn_dim", type=int, default=8960)
    parser.add_argument("--text_dim", type=int, default=4096)
    parser.add_argument("--dir", help="where the folders are made, and removed again")
    parser.add_argument(
        "--measure", nargs=3, metavar=("SRC", "DST", "FORM"), help=argparse.SUPPRESS
    )
    args = parser.parse_args()
    if args.measure:
        print(json.dumps(measured(*args.measure)))
        return
    with tempfile.TemporaryDirectory(dir=args.dir) as folder:
        root = pathlib.Path(folder)
        group = make(root / "run", args)
        steps = (("run", "diffusers"), ("diffusers", "orbax"))
        for source, form in steps:
            flags = ["--measure", str(root / source), str(root / form), form]
            found = fresh(__file__, flags)
            ratio = found["growth"] / group
            row = {"from": source, "to": form, "group": group, **found, "ratio": round(ratio, 3)}
            print(json.dumps(row), flush=True)
            shutil.rmtree(root / source)


def make(run: pathlib.Path, args: argparse.Namespace) -> int:
    """Writes the run; returns the bytes of the largest group of tensors."""
    from skyreels_jax.models.dit.config import DiTConfig
    from skyreels_jax.testing.synthetic import write_synthetic_run

    config = DiTConfig(
        num_attention_heads=args.width // HEAD,
        attention_head_dim=HEAD,
        in_channels=16,
        out_channels=16,
        text_dim=args.text_dim,
        ffn_dim=args.ffn_dim,
        num_layers=args.layers,
    )
    return write_synthetic_run(run, config)


def measured(source: str, target: str, form: str) -> dict[str, float]:
    """Converts; returns the seconds, the bytes written, and by how many bytes memory grew."""
    from skyreels_jax.pipelines.convert import convert
    from skyreels_jax.testing.micro import write_micro_model

    with tempfile.TemporaryDirectory() as folder:  # all modules are there now
        first = pathlib.Path(folder)
        convert(write_micro_model(first / "micro"), first / "orbax", form="orbax")
        convert(first / "orbax", first / "diffusers", form="diffusers")
    grown = memory_from_here()
    (seconds, _), _ = timed(lambda: convert(pathlib.Path(source), pathlib.Path(target), form=form))
    growth = grown()
    written = sum(p.stat().st_size for p in pathlib.Path(target).rglob("*") if p.is_file())
    return {"growth": growth, "written": written, "seconds": round(seconds, 1)}


if __name__ == "__main__":
    main()
