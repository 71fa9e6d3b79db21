"""Parameters wherever they lie, by the path of the leaf: whole, or one layer at a time."""

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

import numpy as np

from skyreels_jax.core.tree import named_leaves
from skyreels_jax.core.types import Params
from skyreels_jax.weights.convert import Slot, match
from skyreels_jax.weights.reader import TensorSource
from skyreels_jax.weights.table import Table

Index = tuple[int, ...]


@runtime_checkable
class ParamSource(Protocol):
    """The leaves of a model. `read` returns `leaf[index]`, and holds little more than that.

    What it returns must not be written to. `name` is that of the place, for messages.
    """

    name: str

    def dtype(self, path: str, index: Index = ()) -> np.dtype: ...

    def read(self, path: str, index: Index = ()) -> np.ndarray: ...


class TreeParams:
    """A `ParamSource` over a tree of arrays in memory."""

    def __init__(self, tree: Params, *, name: str = "parameters"):
        self.name, self._leaves = name, dict(named_leaves(tree))

    @classmethod
    def of(cls, parts: Mapping[str, Params]) -> dict[str, ParamSource]:
        """Returns the parameters of several models by name."""
        return {name: cls(tree, name=name) for name, tree in parts.items()}

    def dtype(self, path: str, index: Index = ()) -> np.dtype:
        del index
        return np.dtype(self._leaves[path].dtype)

    def read(self, path: str, index: Index = ()) -> np.ndarray:
        return np.asarray(self._leaves[path][index] if index else self._leaves[path])


class BetweenParams:
    """A `ParamSource`: the leaves that lie `share` of the way from those of `first` to those of
    `last`, which are alike; float32 and not rounded. `dtype` is that of `last`.
    """

    def __init__(self, first: ParamSource, last: ParamSource, share: float):
        self.name = f"{share:g} of the way from {first.name} to {last.name}"
        self._first, self._last, self._share = first, last, np.float32(share)

    def dtype(self, path: str, index: Index = ()) -> np.dtype:
        return self._last.dtype(path, index)

    def read(self, path: str, index: Index = ()) -> np.ndarray:
        first = self._first.read(path, index).astype(np.float32, copy=False)
        last = self._last.read(path, index).astype(np.float32, copy=False)
        return first + self._share * (last - first)


class StoredParams:
    """A `ParamSource` over the tensors in `source`, stored by `table`, of a model like `abstract`.

    Raises `UserError` as `match` does.
    """

    def __init__(self, table: Table, source: TensorSource, abstract: Params):
        self.name, self._source = source.name, source
        self._held: dict[str, dict[Index, tuple[str, Slot]]] = {}
        for name, slot in match(table, source, abstract).items():
            self._held.setdefault(slot.path, {})[slot.index] = name, slot

    def dtype(self, path: str, index: Index = ()) -> np.dtype:
        """Returns the type of all tensors in that part; float32 where they are of several."""
        kinds = {
            self._source.dtype(name)
            for own, (name, _) in self._held[path].items()
            if all(a == b for a, b in zip(own, index, strict=False))
        }
        return kinds.pop() if len(kinds) == 1 else np.dtype(np.float32)

    def read(self, path: str, index: Index = ()) -> np.ndarray:
        """Returns that part of the leaf.

        A stored tensor may be that part, or hold it (q of a fused qkv), or be one of several in it.
        """
        held = self._held[path]
        for depth in range(len(index), -1, -1):
            if index[:depth] in held:
                name, slot = held[index[:depth]]
                whole = slot.transform.forward(self._source.read(name))
                return np.asarray(whole[index[depth:]])
        count = 1 + max(other[len(index)] for other in held if other[: len(index)] == index)
        parts = [self.read(path, (*index, n)) for n in range(count)]
        return np.stack(parts, dtype=self.dtype(path, index), casting="unsafe")
