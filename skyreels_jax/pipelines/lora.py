"""Adapters of a model: named by their files, checked before any weights, merged when asked for."""

import dataclasses
import math
import numbers
import os
import pathlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Sharding

from skyreels_jax.core.config import from_dict
from skyreels_jax.core.errors import UserError
from skyreels_jax.core.tree import named_leaves, path_name
from skyreels_jax.core.types import Params
from skyreels_jax.models.layout import KINDS, abstract_model
from skyreels_jax.pipelines.fingerprint import weights_state
from skyreels_jax.weights.lora import match_lora, read_lora
from skyreels_jax.weights.merge import Scaled, changed_paths, merge
from skyreels_jax.weights.peft import open_lora
from skyreels_jax.weights.table import Table

MAX_SCALE = 100.0
PART = "transformer"  # what adapters change


@dataclasses.dataclass(frozen=True, kw_only=True)
class Lora:
    """An adapter file or folder, how strongly it acts, and a `fingerprint` of its tensors."""

    path: str
    scale: float = 1.0
    fingerprint: str = ""


class Names(NamedTuple):
    """What an adapter of a transformer may name: the tables of both forms, and all shapes."""

    tables: tuple[Table, ...]
    abstract: Params


def transformer_names(config: Any) -> Names:
    """Returns the names in a transformer with configuration `config`; takes no memory."""
    kind = KINDS[PART]
    tables = (kind.diffusers_table(config), kind.official_table(config))
    return Names(tables, abstract_model(PART, config)[1])


def parse_lora(value: Any) -> Lora:
    """Returns the adapter that `value` names: "PATH" or "PATH:SCALE", a path, (path, scale), or a
    `Lora`, also as the mapping that json makes of it.

    Raises `UserError` for anything else, and for a scale that is no number of at most 100.
    """
    if isinstance(value, Mapping):
        value = from_dict(Lora, value)
    if isinstance(value, Lora):
        return value
    path, scale = value if isinstance(value, tuple) and len(value) == 2 else (value, 1.0)
    if isinstance(value, str) and not pathlib.Path(value).exists():
        head, _, tail = value.rpartition(":")
        number = _number(tail) if head else None
        path, scale = (value, scale) if number is None else (head, number)
    if not isinstance(path, (str, os.PathLike)) or not isinstance(scale, numbers.Real):
        raise UserError(f"lora {value!r} is not PATH, PATH:SCALE or (path, scale)")
    if not abs(scale) <= MAX_SCALE:
        raise UserError(
            f"lora scale {scale:g} is out of range; legal: -{MAX_SCALE:g} to {MAX_SCALE:g}"
        )
    return Lora(path=str(pathlib.Path(path).expanduser().resolve()), scale=float(scale))


def check_lora(values: Any, names: Callable[[], Names]) -> tuple[Lora, ...]:
    """Returns the adapters that `values` names, one or several, with their fingerprints.

    Only headers are read. Raises `UserError` for a missing or damaged file, for one that has
    changed since its fingerprint was taken, and for one that does not fit the model; then the
    message lists everything that does not.
    """
    single = isinstance(values, (str, os.PathLike, Lora, Mapping))
    found = []
    for lora in map(parse_lora, [values] if single else values):
        source, _ = open_lora(lora.path)
        match_lora(source, *names())
        fingerprint = weights_state([pathlib.Path(lora.path)]).hex()[:16]
        if lora.fingerprint not in ("", fingerprint):
            raise UserError(f"{lora.path!r} is not as it was; to take it as it is: --lora PATH")
        found.append(dataclasses.replace(lora, fingerprint=fingerprint))
    return tuple(found)


class Adapted:
    """The parameters of a `TextToVideo` with adapters in them, whichever are asked for.

    Sums are rounded, so nothing is subtracted again: the leaves that the present adapters changed
    are kept, as they were, in host memory, and come back bit for bit when others are asked for,
    each to the devices that it was on.
    """

    def __init__(self, params: Params, names: Callable[[], Names]):
        self._params, self._names = params, names
        self._places = {path: _place(leaf) for path, leaf in named_leaves(params[PART])}
        self._base: dict[str, np.ndarray] = {}
        self._present: tuple[Lora, ...] = ()

    def __call__(self, loras: tuple[Lora, ...] = ()) -> Params:
        """Returns the parameters with `loras` merged in, at their scales; () for none."""
        if loras != self._present:
            adapters = self._read(loras)
            tree = _replaced(self._params[PART], self._base)
            wanted = changed_paths(adapters)
            base = {path: np.asarray(x) for path, x in named_leaves(tree) if path in wanted}
            # From the host, one leaf at a time: the device never holds both of all of them.
            self._params = {**self._params, PART: _replaced(tree, base)}
            del tree
            merged = merge(self._params[PART], adapters, place=self._placed)
            self._params = {**self._params, PART: merged}
            self._base, self._present = base, loras
        return self._params

    def _placed(self, path: str, leaf: Any) -> jax.Array:
        return jax.device_put(leaf, self._places[path])

    def _read(self, loras: Iterable[Lora]) -> list[Scaled]:
        adapters = []
        for lora in loras:
            source, scaling = open_lora(lora.path)
            adapters.append((read_lora(source, *self._names(), scaling=scaling), lora.scale))
        return adapters


def _place(leaf: jax.Array) -> Sharding | None:
    """Returns where `leaf` is; None if it may be anywhere, and nothing need be compiled for it."""
    return leaf.sharding if leaf.committed else None


def _replaced(tree: Params, leaves: dict[str, Any]) -> Params:
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: leaves.get(path_name(path), leaf), tree
    )


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None
