"""Plain mappings (json, ml_collections) to frozen dataclasses and back; strict, helpful."""

import ast
import dataclasses
import difflib
import types
import typing
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from skyreels_jax.core.errors import UserError

T = TypeVar("T")


def suggest(name: str, legal: Iterable[str]) -> str:
    """Returns "; did you mean 'x'?" for the nearest legal name, else the list of legal names."""
    legal = sorted(legal)
    near = difflib.get_close_matches(name, legal, n=1)
    return f"; did you mean {near[0]!r}?" if near else f"; legal: {', '.join(legal)}"


def fields_of(name: str, values: Any) -> dict[str, Any]:
    """Returns the mapping `values` as a dict; `UserError` where it is none."""
    if not isinstance(values, Mapping):
        raise UserError(f"{name}: expected its fields by name, got {values!r}")
    return dict(values)


def from_dict(cls: type[T], values: Any, *, ignore: Iterable[str] = ()) -> T:
    """Builds the frozen dataclass `cls` from a mapping, recursively.

    What is no mapping raises `UserError`; so do unknown keys, with a suggestion, except those in
    `ignore` and private ones ("_class_name"). Lists become tuples; an int is accepted where a float
    is declared; any other type mismatch raises.
    """
    if not dataclasses.is_dataclass(cls):
        raise TypeError(f"{cls!r} is no dataclass")
    hints = typing.get_type_hints(cls)
    ignore = set(ignore)
    built = {}
    for key, value in fields_of(cls.__name__, values).items():
        if key in hints:
            built[key] = _coerce(f"{cls.__name__}.{key}", hints[key], value)
        elif key not in ignore and not key.startswith("_"):
            raise UserError(f"{cls.__name__} has no field {key!r}{suggest(key, hints)}")
    missing = [
        f.name
        for f in dataclasses.fields(cls)
        if f.name not in built
        and f.default is dataclasses.MISSING
        and f.default_factory is dataclasses.MISSING
    ]
    if missing:
        needed = (f"{name}{_choices(hints[name])}" for name in missing)
        raise UserError(f"{cls.__name__} needs {', '.join(needed)}")
    return cls(**built)


def to_dict(config: Any) -> Any:
    """Returns `config` as json-ready nested dicts (tuples as lists)."""
    if dataclasses.is_dataclass(config):
        return {f.name: to_dict(getattr(config, f.name)) for f in dataclasses.fields(config)}
    if isinstance(config, (list, tuple)):
        return [to_dict(v) for v in config]
    if isinstance(config, Mapping):
        return {k: to_dict(v) for k, v in config.items()}
    return config


def override(config: Any, path: str, text: str) -> Any:
    """Returns `config` with the field at dotted `path` set to `text`, read as a Python literal.

    A field that holds text takes what is no text literal as it stands ("2026", "None"). Below a
    dataclass that may be None and is, `path` makes one, all else by its defaults. What is declared
    as Any and is a dataclass stays one of its kind.
    Raises `UserError` for an unknown field or a value of another type.
    """
    head, _, rest = path.partition(".")
    names = [f.name for f in dataclasses.fields(config)]
    if head not in names:
        raise UserError(f"{type(config).__name__} has no field {head!r}{suggest(head, names)}")
    old, hint = getattr(config, head), typing.get_type_hints(type(config))[head]
    if hint is Any and dataclasses.is_dataclass(old):
        hint = type(old)
    if rest and dataclasses.is_dataclass(old):
        return dataclasses.replace(config, **{head: override(old, rest, text)})
    if rest and not (old is None and any(map(dataclasses.is_dataclass, typing.get_args(hint)))):
        raise UserError(
            f"{type(config).__name__}.{head} has no field {rest!r}: it is a plain value"
        )
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        value = text
    if hint is str and not isinstance(value, str):
        value = text
    for name in reversed(rest.split(".") if rest else ()):
        value = {name: value}
    return dataclasses.replace(
        config, **{head: _coerce(f"{type(config).__name__}.{head}", hint, value)}
    )


def _coerce(name: str, hint: Any, value: Any) -> Any:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return value
    if origin in (typing.Union, types.UnionType):
        errors = []
        for option in args:
            try:
                return _coerce(name, option, value)
            except UserError as error:
                errors.append(str(error))
        raise UserError(errors[0])
    if origin is typing.Literal:
        if value not in args:
            raise UserError(f"{name}: {value!r} is not one of {', '.join(map(repr, args))}")
        return value
    if origin is tuple and isinstance(value, (list, tuple)):
        inner = [args[0]] * len(value) if args[-1:] == (...,) else list(args)
        if len(inner) != len(value):
            raise UserError(f"{name}: expected {len(inner)} values, got {len(value)}")
        return tuple(_coerce(name, h, v) for h, v in zip(inner, value, strict=True))
    if origin in (dict, Mapping) or hint is dict:
        if isinstance(value, Mapping):
            return dict(value)
    elif isinstance(hint, type) and dataclasses.is_dataclass(hint):
        if isinstance(value, hint):
            return value
        if isinstance(value, Mapping):
            return from_dict(hint, value)
    elif hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    elif (
        isinstance(hint, type)
        and isinstance(value, hint)
        and (hint is bool or not isinstance(value, bool))
    ):
        return value
    raise UserError(f"{name}: expected {_expected(hint)}, got {value!r}")


def _expected(hint: Any) -> str:
    if dataclasses.is_dataclass(hint):
        return f"fields by name ({', '.join(f.name for f in dataclasses.fields(hint))})"
    return getattr(hint, "__name__", str(hint))


def _choices(hint: Any) -> str:
    """Returns " ('a' or 'b')" where values are listed."""
    if typing.get_origin(hint) is not typing.Literal:
        return ""
    return f" ({' or '.join(map(repr, typing.get_args(hint)))})"
