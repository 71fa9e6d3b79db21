"""Train a model from a config file: the video VAE, the transformer with its text encoder, the
motion of both on their own films, in stages, or a reward model on pairs of clips.

A stopped run goes on from its last checkpoint when the same command is given again. At the end the
trained model is exported under OUT/export (in diffusers form where there is one). With `lora` in
the config adapters alone are trained; the export has them merged, and by themselves in its lora/.
"""

import argparse
import importlib.util
import inspect
import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from skyreels_jax.core.config import from_dict, override, suggest
from skyreels_jax.core.errors import UserError
from skyreels_jax.core.files import check_local
from skyreels_jax.core.signals import sigterm_ends

NAME = "train"
HELP = "train from a config file (resumes by itself), then export in diffusers form"
SEEDS = 2**31  # those made of one (of stages, buckets, films) have as much room again
STOPPED = "stopped; the same command goes on from here"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the flags of `skyreels-jax train`."""
    parser.add_argument("--config", required=True, help="a config file, such as configs/toy/vae.py")
    parser.add_argument("--out", help="folder of the run (default: the config's)")
    parser.add_argument(
        "--hosts",
        default="alone",
        help="alone: this process is the only one (default); auto: the cluster says who else there "
        "is; HOST:PORT: where process 0 listens, with --host_count and --host_index",
    )
    parser.add_argument("--host_count", type=int, metavar="N", help="processes of the run")
    parser.add_argument("--host_index", type=int, metavar="N", help="which of them this is")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="PATH=VALUE",
        help="override a config field by dotted path, such as --set ema_decay=0.99",
    )
    parser.add_argument(
        "--export_only", action="store_true", help="export the last checkpoint, train no further"
    )
    parser.add_argument(
        "--no_export",
        action="store_true",
        help="end after the last step: a pod need not wait for an export (--export_only, later)",
    )
    parser.add_argument(
        "--export_dtype",
        choices=("float16", "bfloat16", "float32"),
        default="float16",
        help="type of the exported weights (default: %(default)s)",
    )
    parser.add_argument(
        "--stopped_code",
        type=int,
        default=0,
        metavar="N",
        help="exit code of a command that SIGTERM stopped before its end; given again, it goes on "
        "(default: %(default)s)",
    )


def run(args: argparse.Namespace) -> int:
    """Trains and exports; returns the exit code."""
    from skyreels_jax.parallel import hosts

    values = read_config(args.config)
    if args.export_only and args.no_export:
        raise UserError("--export_only and --no_export: give one of them")
    if values.get("kind") == "flow_dpo" and args.hosts != hosts.ALONE:
        raise UserError("--hosts: one process makes the films of flow_dpo; leave it out")
    hosts.join(args.hosts, count=args.host_count, index=args.host_index)
    with sigterm_ends(args.stopped_code, STOPPED), hosts.ending_at_once(), hosts.quiet():
        return _run(args, values)


def _run(args: argparse.Namespace, values: Mapping[str, Any]) -> int:
    import jax

    recipe, config = resolved(values, args.set)
    if args.out:
        config = override(config, "out", args.out)
    for place in (config.out, config.data.folder, config.data.latents):
        check_local(place)

    if config.kind == "flow_dpo":
        from skyreels_jax.cli.recipes import stages as trainer
    else:
        from skyreels_jax.cli.recipes import run as trainer

    if config.mesh is not None:
        print(f"devices: {jax.device_count()}; processes: {jax.process_count()}")
    if not args.export_only and not trainer.train(recipe, config):
        print(STOPPED, file=sys.stderr)
        return args.stopped_code
    if args.no_export:
        return 0
    folder = trainer.export(recipe, config, dtype=args.export_dtype)
    print(folder)
    return 0


def resolved(values: Mapping[str, Any], overrides: Sequence[str]) -> tuple[Any, Any]:
    """Returns the recipe and the `TrainConfig` of a config file's `values`, with PATH=VALUE of each
    of `overrides`.

    Raises `UserError` for unknown keys, paths and values, another kind, and seeds out of range.
    """
    from skyreels_jax.cli.recipes.base import config_class, recipe_for

    config = from_dict(config_class(values.get("kind")), values)
    recipe = recipe_for(config.kind)
    config = recipe.resolve(config)
    for item in overrides:
        path, equals, text = item.partition("=")
        if not equals:
            raise UserError(f"--set takes PATH=VALUE, got {item!r}")
        if path == "kind":  # all else in the file is of its kind
            raise UserError(f"--set kind: the config is of kind {config.kind!r}; give another one")
        config = override(config, path, text)
    if not 0 <= config.seed < SEEDS:
        raise UserError(f"seed: legal are 0 to {SEEDS - 1}, got {config.seed}")
    return recipe, config


def read_config(path: str) -> Mapping[str, Any]:
    """Returns what `get_config()` of the Python file `path` gives, as plain nested containers; of
    FILE:CHOICE (ml_collections' way of writing it) what `get_config(CHOICE)` gives.

    Raises `UserError` when there is no such file, it is not Python, it has no get_config, or none
    that takes that choice.
    """
    import ml_collections

    name, _, choice = path.partition(".py:")
    file = pathlib.Path(f"{name}.py" if choice else path)
    if not file.is_file():
        near = [str(p) for p in pathlib.Path("configs").rglob("*.py")]
        raise UserError(f"no config file {path}{suggest(path, near) if near else ''}")
    spec = importlib.util.spec_from_file_location("skyreels_jax_config", file)
    if spec is None or spec.loader is None:
        raise UserError(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except SyntaxError as error:
        raise UserError(f"{path}, line {error.lineno}: {error.msg}") from None
    make = getattr(module, "get_config", None)
    if choice and (make is None or not inspect.signature(make).parameters):
        raise UserError(f"{file} is one config; leave out :{choice}")
    config = None if make is None else make(choice) if choice else make()
    if not isinstance(config, ml_collections.ConfigDict):
        raise UserError(f"{path} has no get_config() that returns an ml_collections.ConfigDict")
    return config.to_dict()
