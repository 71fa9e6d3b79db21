"""Compile a step of a full-size run for TPUs that are not there, and say what it would need:
memory a device, what goes between devices, and how long it would take.

The real TPU compiler does it, on this machine's CPU; nothing is computed. The config is one of
`train`'s that reads features (configs/film).

examples:
  skyreels-jax plan --config configs/film/pretrain_540p.py:14b --topology v5p:4x4x8
  skyreels-jax plan --config configs/film/sft_720p.py:14b --topology tpu7x:4x4x4 \\
      --set mesh.context=8 --set remat=block
  skyreels-jax plan --config configs/film/sft_720p.py:1.3b --topology v6e:8x8 --step sample --json
"""

import argparse
import json

NAME = "plan"
HELP = "compile a full-size step for a TPU topology, without one: does it fit, how fast is it"
STEPS = ("train", "sample", "decode")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the flags of `skyreels-jax plan`."""
    flag = parser.add_argument
    flag("--config", required=True, help="a config file of `train`, of kind text_to_video")
    flag("--topology", required=True, metavar="TPU:SHAPE", help="such as v5p:4x4x8 or v6e:16x16")
    flag(
        "--step",
        choices=STEPS,
        default="train",
        help="which program: a step of training, one evaluation of the model for a film, or the "
        "VAE's decoding of a latent frame (default: %(default)s)",
    )
    flag("--stage", type=int, default=-1, metavar="N", help="of the config (default: the last)")
    flag("--json", action="store_true", help="one object, no text")
    flag(
        "--set",
        action="append",
        default=[],
        metavar="PATH=VALUE",
        help="override a config field by dotted path, such as --set mesh.context=4",
    )


def run(args: argparse.Namespace) -> int:
    """Plans and prints; returns 0 if the program fits, 1 if it does not."""
    from skyreels_jax.cli.planning.chips import topology
    from skyreels_jax.cli.planning.plan import check, plan
    from skyreels_jax.cli.train import read_config, resolved

    recipe, config = resolved(read_config(args.config), args.set)
    check(config, args.stage)
    chip, devices = topology(args.topology)
    made = plan(recipe, config, chip, devices, step=args.step, stage=args.stage)
    said = {"config": args.config, "topology": args.topology, "step": args.step}
    print(json.dumps(said | made.values()) if args.json else made.text(args.topology))
    return 0 if made.fits else 1
