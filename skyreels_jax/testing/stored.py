"""Trees as the arrays of a file, for tests."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from skyreels_jax.core.types import Params
from skyreels_jax.weights.convert import plan
from skyreels_jax.weights.export import export_params
from skyreels_jax.weights.params import StoredParams, TreeParams
from skyreels_jax.weights.reader import TensorSource
from skyreels_jax.weights.table import Table


class DictSource:
    """A `TensorSource` over arrays in memory."""

    def __init__(self, arrays: Mapping[str, np.ndarray], *, name: str = "arrays"):
        self.name, self._arrays = name, arrays

    def keys(self) -> list[str]:
        return list(self._arrays)

    def shape(self, key: str) -> tuple[int, ...]:
        return tuple(self._arrays[key].shape)

    def dtype(self, key: str) -> np.dtype:
        return np.dtype(self._arrays[key].dtype)

    def read(self, key: str) -> np.ndarray:
        return np.asarray(self._arrays[key])


def source_shapes(table: Table, abstract: Params) -> dict[str, tuple[int, ...]]:
    """Returns the name and shape of every tensor that a file of this model holds."""
    return {name: slot.shape for name, slot in plan(table, abstract).items()}


def export_tree(
    table: Table, tree: Params, *, dtype: Any = None
) -> Iterator[tuple[str, np.ndarray]]:
    """Yields (stored name, array) for every tensor of `tree`, in the names and layout of `table`.

    `dtype` is the type of floating tensors; None keeps theirs.
    """
    for tensor in export_params(table, TreeParams(tree), tree, dtype=dtype):
        yield tensor.name, tensor.whole()


def transcode(
    source: TensorSource, read: Table, write: Table, abstract: Params, *, dtype: Any = None
) -> Iterator[tuple[str, np.ndarray]]:
    """Yields the tensors of `source`, stored by the table `read`, as the table `write` stores them.

    Raises `UserError` as `StoredParams` does, when called.
    """
    params = StoredParams(read, source, abstract)
    tensors = export_params(write, params, abstract, dtype=dtype)
    return ((tensor.name, tensor.whole()) for tensor in tensors)
