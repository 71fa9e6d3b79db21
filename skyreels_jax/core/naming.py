"""What functions and settings are, as text that another process writes the same way."""

import dataclasses
import enum
import functools
import sys
import types
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

# Packages whose functions and types a name says enough of: their version or source is known.
KNOWN = {"skyreels_jax", "jax", "jaxlib", "flax", "numpy", "ml_dtypes", "builtins", "functools"}
PLAIN = (type(None), bool, int, float, complex, str, bytes, np.dtype)


class Vague(Exception):
    """Something has no text that says all of it."""


def text_of(value: Any) -> str:
    """Returns the text of plain values, containers, dataclasses, partial functions, structures of
    trees, and functions and types by their full names. Texts of different values differ.

    Raises `Vague` for what another process, or another version, might make something else of:
    closures, lambdas, functions of packages not in `KNOWN`, objects without a text of their own.
    """
    if isinstance(value, jax.tree_util.PyTreeDef):
        return f"tree({value.num_leaves} {_all(value.node_data() or ())} {_all(value.children())})"
    if isinstance(value, PLAIN) and not isinstance(value, enum.Enum):
        return repr(value)
    if isinstance(value, functools.partial):
        return f"{_name(type(value))}{_all((value.func, value.args, value.keywords))}"
    if isinstance(value, types.MethodType):
        return f"method({_name(value.__func__)} {text_of(value.__self__)})"
    if callable(value) and hasattr(value, "__qualname__"):
        return _name(value)
    if isinstance(value, jax.sharding.Mesh):
        devices = [device.id for device in value.devices.flat]
        return f"mesh{_all((value.axis_names, value.devices.shape, devices))}{value.axis_types}"
    kind = _name(type(value))
    if dataclasses.is_dataclass(value):
        fields = [(f.name, getattr(value, f.name)) for f in dataclasses.fields(value)]
        return f"{kind}{_all(fields)}"
    if isinstance(value, Mapping):
        return f"{kind}{_all(value.items())}"
    if isinstance(value, tuple | list):
        return f"{kind}{_all(value)}"
    said = repr(value)
    if isinstance(value, np.ndarray | jax.Array) or " at 0x" in said:
        raise Vague(f"{said[:80]} does not say all that it depends on")
    return f"{kind}({said})"


def _all(values: Any) -> str:
    return f"[{', '.join(map(text_of, values))}]"


def _name(value: Any) -> str:
    """Returns the full name of a function or a type."""
    module = getattr(value, "__module__", None)  # None: of a built-in method
    name, found = f"{module}.{value.__qualname__}", sys.modules.get(module or "")
    for part in value.__qualname__.split("."):
        found = getattr(found, part, None)
    if module == "builtins" and isinstance(value, type):  # some have no place there (NoneType)
        found = value
    # What wraps a function (jax.grad, say) has its name and is another one.
    if found is not value or name.partition(".")[0] not in KNOWN:
        raise Vague(f"{name} does not say all that it depends on")
    return name
