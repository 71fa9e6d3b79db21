"""Converts a model folder, a training run or one of its checkpoints to the diffusers form, the
official SkyReels-V2 form, or a folder that training starts from (orbax).

Values are kept bit for bit unless --dtype asks for another type, and pass through memory a tensor
at a time. The new folder appears only when it is complete. Official folders hold PyTorch files:
they need the extra "torch", and writing them takes the memory of the largest.

examples:
  skyreels-jax convert SkyReels-V2-T2V-14B-540P skyreels-14b --to diffusers --dtype bfloat16
  skyreels-jax convert my-model my-model-official --to official
  skyreels-jax convert runs/toy/pretrain/checkpoints/500 at-500 --to diffusers --weights raw
  skyreels-jax convert runs/my-lora my-lora --to diffusers --lora alone
  skyreels-jax convert SkyReels-V2-DF-1.3B-540P start --to orbax --dtype float32
"""

import argparse
import pathlib
import re

from skyreels_jax.core.errors import UserError
from skyreels_jax.core.files import check_local

NAME = "convert"
HELP = "convert models and training runs between diffusers, official and Orbax form"
FORMS = ("diffusers", "official", "orbax")
UNITS = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of this command to `parser`."""
    parser.add_argument("source", type=pathlib.Path, metavar="SRC", help="model, run or checkpoint")
    parser.add_argument("target", type=pathlib.Path, metavar="DST", help="new folder to write")
    parser.add_argument("--to", required=True, choices=FORMS, help="its form")
    parser.add_argument(
        "--dtype",
        choices=("float32", "bfloat16", "float16"),
        help="type of all stored weights, those too that films keep in float32 (default: as they "
        "are); of a run, of those it trained",
    )
    parser.add_argument(
        "--weights",
        choices=("ema", "raw"),
        help="of a training run: averaged or not (default: averaged, if the run kept them)",
    )
    parser.add_argument(
        "--lora",
        choices=("merged", "alone"),
        help="of a run that trained adapters: the model with them in it, or they by themselves "
        "(default: merged)",
    )
    parser.add_argument(
        "--max_shard_size",
        default="5GB",
        metavar="SIZE",
        help='largest safetensors file, such as "500MB" or "2GiB" (default: %(default)s)',
    )


def run(args: argparse.Namespace) -> int:
    """Converts and prints the new folder."""
    size = parse_size(args.max_shard_size)
    check_local(args.target)
    from skyreels_jax.pipelines.convert import convert

    options = {"dtype": args.dtype, "weights": args.weights, "lora": args.lora}
    convert(args.source, args.target, form=args.to, max_shard_bytes=size, **options)
    print(args.target)
    return 0


def parse_size(text: str) -> int:
    """Returns the bytes in "5GB", "2 GiB" or "1000"; raises `UserError` for other texts."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([a-z]*)", text.strip(), re.IGNORECASE)
    if not found or found[2].upper() not in UNITS or float(found[1]) <= 0:
        raise UserError(f"--max_shard_size {text!r}: expected a size such as 500MB, 5GB or 2GiB")
    return int(float(found[1]) * UNITS[found[2].upper()])
