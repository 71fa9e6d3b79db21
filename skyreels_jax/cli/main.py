"""`skyreels-jax`: collects the subcommands; bad input is one line on stderr and exit code 2."""

import argparse
import importlib
import re
import sys
from collections.abc import Sequence
from typing import NoReturn

import skyreels_jax
from skyreels_jax.core.config import suggest
from skyreels_jax.core.errors import UserError

COMMANDS = ("generate", "stream", "train", "plan", "convert", "evaluate", "report", "data")
BAD_INPUT = 2
INTERRUPTED = 130

EXAMPLES = """examples:
  skyreels-jax generate --prompt "A red ring glides slowly to the right in a meadow, close-up."
  skyreels-jax generate --prompts_file prompts.txt --seed 7 --outdir films
  skyreels-jax generate --from films/a-red-ring_seed7.json
  skyreels-jax stream --prompts story.txt --seconds 600 --out film.mp4
  skyreels-jax COMMAND --help
"""


class Parser(argparse.ArgumentParser):
    """An argument parser whose complaints are `UserError`s of one line."""

    def __init__(self, **kwargs):
        kwargs.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        super().__init__(allow_abbrev=False, **kwargs)

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message} (see {self.prog} --help)")


def build_parser() -> tuple[Parser, dict[str, Parser]]:
    """Returns the parser and those of the subcommands by name; imports nothing heavy."""
    parser = Parser(
        prog="skyreels-jax",
        description="Films from sentences: SkyReels-V2 in JAX.",
        epilog=EXAMPLES,
    )
    version = f"skyreels-jax {skyreels_jax.__version__}"
    parser.add_argument("--version", action="version", version=version)
    subparsers = parser.add_subparsers(metavar="COMMAND", parser_class=Parser)
    commands = {}
    for name in COMMANDS:
        module = importlib.import_module(f"skyreels_jax.cli.{name}")
        about = module.__doc__ or module.HELP
        command = subparsers.add_parser(module.NAME, help=module.HELP, description=about)
        module.add_arguments(command)
        command.set_defaults(run=module.run, command=module.NAME)
        commands[module.NAME] = command
    return parser, commands


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Returns the parsed arguments; raises `UserError` with a suggestion for an unknown name."""
    parser, commands = build_parser()
    if argv and not argv[0].startswith("-") and argv[0] not in commands:
        raise UserError(f"no command {argv[0]!r}{suggest(argv[0], commands)}")
    args, unknown = parser.parse_known_args(argv)
    if unknown:
        flag = unknown[0].partition("=")[0]
        owner = commands.get(getattr(args, "command", ""), parser)
        flags = re.findall(r"(?<!\w)--?[a-z]\w*", owner.format_usage())
        raise UserError(f"unknown argument {flag!r}{suggest(flag, flags)}")
    if not hasattr(args, "run"):
        parser.print_help()
    return args


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit code: 0 done, 2 bad input, 130 interrupted."""
    try:
        args = parse(sys.argv[1:] if argv is None else argv)
        return args.run(args) if hasattr(args, "run") else BAD_INPUT
    except UserError as error:
        print(f"skyreels-jax: {' '.join(str(error).split())}", file=sys.stderr)
        return BAD_INPUT
    except KeyboardInterrupt:
        print("skyreels-jax: interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        sys.stderr.close()
        return 1
