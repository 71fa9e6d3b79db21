"""Adapters as values, and the one way to add them to parameters."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from skyreels_jax.core.tree import path_name
from skyreels_jax.core.types import Params
from skyreels_jax.weights.params import Index, ParamSource


class Change(NamedTuple):
    """What is added to one layer of a leaf: `down @ up`, or `whole`; float32.

    `index` is the layer's place on the leading axes of the leaf, () where layers are not stacked.
    """

    index: tuple[int, ...]
    down: Float[np.ndarray, "I r"] | None = None
    up: Float[np.ndarray, "r O"] | None = None
    whole: Float[np.ndarray, "*layer"] | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Adapter:
    """Changes by the path of the leaf, at scale 1 (alpha / rank is in them)."""

    name: str
    changes: Mapping[str, Sequence[Change]]


Leaf = Array | np.ndarray
Scaled = tuple[Adapter, float | int]


def merge(
    tree: Params,
    adapters: Sequence[Scaled],
    *,
    place: Callable[[str, Leaf], Leaf] = lambda path, leaf: leaf,
) -> Params:
    """Returns `tree` with each adapter added, times its scale; other leaves are the same objects.

    place: (path, leaf) -> the leaf on the devices where it belongs, before and after the sum: so
    none has more of it than its part.
    Sums are float32, rounded once to the type of the leaf, layer by layer. As rounding cannot be
    undone by subtraction, adapters are taken out by going back to the leaves of `tree`: whoever
    wants to, keeps those that `changed_paths` names.
    """
    wanted = changed_paths(adapters)

    def add(path: tuple, leaf: Leaf) -> Leaf:
        name = path_name(path)
        leaf = place(name, leaf)
        if name not in wanted:
            return leaf
        changes = [
            (change, np.float32(scale))
            for adapter, scale in adapters
            for change in adapter.changes.get(name, ())
        ]
        parts = (*_factors(leaf.shape, changes), _whole(leaf.shape, changes))
        return place(name, compiled_add(leaf, *parts))

    return jax.tree_util.tree_map_with_path(add, tree)


class MergedParams:
    """A `ParamSource`: the leaves of `base` with an adapter added, each layer when it is read.

    Sums are float32 and not rounded; `dtype` is that of `base`.
    """

    def __init__(self, base: ParamSource, adapter: Adapter):
        self.name = f"{adapter.name} upon {base.name}"
        self._base, self._changes = base, adapter.changes

    def dtype(self, path: str, index: Index = ()) -> np.dtype:
        return self._base.dtype(path, index)

    def read(self, path: str, index: Index = ()) -> np.ndarray:
        changes = self._changes.get(path, ())
        depth = min([len(index), *(len(change.index) for change in changes)])
        if depth < len(index):  # of less than a layer
            return self.read(path, index[:depth])[index[depth:]]
        part = self._base.read(path, index)
        changes = [change for change in changes if change.index[:depth] == index]
        if not changes:
            return part
        part = part.astype(np.float32)  # a copy, too
        for change in changes:
            place = change.index[depth:]
            part[place] = compiled_add(part[place], change.down, change.up, change.whole)
        return part


def changed_paths(adapters: Iterable[Scaled]) -> set[str]:
    """Returns the paths of the leaves that `adapters` change."""
    return {path for adapter, _ in adapters for path in adapter.changes}


def _factors(
    shape: tuple[int, ...], changes: Sequence[tuple[Change, np.float32]]
) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Returns all low-rank changes of a leaf as one: factors side by side, zeros where none is."""
    low = [
        (change.index, change.down, scale * change.up)
        for change, scale in changes
        if change.down is not None and change.up is not None
    ]
    if not low:
        return None, None
    used: dict[tuple[int, ...], int] = {}
    spans = []
    for index, part, _ in low:
        start = used.get(index, 0)
        used[index] = start + part.shape[1]
        spans.append(slice(start, used[index]))
    rank = max(used.values())
    down = np.zeros((*shape[:-1], rank), np.float32)
    up = np.zeros((*shape[:-2], rank, shape[-1]), np.float32)
    for (index, *factors), span in zip(low, spans, strict=True):
        down[(*index, slice(None), span)], up[(*index, span)] = factors
    return down, up


def _whole(
    shape: tuple[int, ...], changes: Sequence[tuple[Change, np.float32]]
) -> np.ndarray | None:
    whole = [
        (change.index, scale * change.whole)
        for change, scale in changes
        if change.whole is not None
    ]
    if not whole:
        return None
    total = np.zeros(shape, np.float32)
    for index, part in whole:
        total[index] += part
    return total


def _add(leaf: Leaf, down: Leaf | None, up: Leaf | None, whole: Leaf | None) -> Array:
    def one(parts: tuple) -> Array:
        layer, down, up, whole = parts
        total = layer.astype(jnp.float32)
        if down is not None:
            total = total + jnp.matmul(down, up, precision=jax.lax.Precision.HIGHEST)
        return (total if whole is None else total + whole).astype(layer.dtype)

    parts = (leaf, down, up, whole)
    # The float32 sum of a whole stack would be twice the size of the bfloat16 leaf.
    return jax.lax.map(one, parts) if down is not None and leaf.ndim > 2 else one(parts)


compiled_add = jax.jit(_add)
