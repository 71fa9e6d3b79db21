"""Settings side by side: `--setting "NAME: OPTION=VALUE ..."`, as often as there are."""

import argparse
import dataclasses
import shlex
from collections.abc import Sequence
from typing import Any

from skyreels_jax.cli import flags
from skyreels_jax.core.config import suggest
from skyreels_jax.core.errors import UserError

EXAMPLE = "pixels: carry=pixels addnoise_condition=20"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Setting:
    """A name, and flags of the command whose values here go before those there."""

    name: str
    options: dict[str, Any]


def parse_settings(texts: Sequence[str]) -> list[Setting]:
    """Returns what the texts say; `UserError` for what they cannot, and for a name given twice.

    Whether values are legal for a model, that model's request says.
    """
    settings = [_setting(text) for text in texts]
    names = [setting.name for setting in settings]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"two settings have the name {name!r}; give each its own")
    return settings


def _setting(text: str) -> Setting:
    name, colon, rest = (part.strip() for part in text.partition(":"))
    try:
        words = shlex.split(rest)
    except ValueError as error:
        raise UserError(f"--setting {text!r}: {error}") from None
    if not (name and colon) or not all("=" in word for word in words):
        raise UserError(f"--setting {text!r} is not like {EXAMPLE!r}")
    parser = _parser()
    legal, options = vars(parser.parse_args([])), {}
    for word in words:
        option, _, _ = word.partition("=")
        if option not in legal:
            raise UserError(f"setting {name!r} has no option {option!r}{suggest(option, legal)}")
        try:
            options[option] = getattr(parser.parse_args([f"--{word}"]), option)
        except argparse.ArgumentError as error:
            raise UserError(f"setting {name!r}: {error}") from None
    return Setting(name=name, options=options)


def _parser() -> argparse.ArgumentParser:
    """Returns a parser of the flags that a setting may have a value of its own for."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--model")
    flags.add_steps(parser)
    flags.add_windows(parser)
    return parser
