"""From parameters to the tensors that a file holds, each read when its turn has come."""

import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np

from skyreels_jax.core.types import Params
from skyreels_jax.weights.convert import Slot, cast, plan, target_dtype
from skyreels_jax.weights.params import ParamSource
from skyreels_jax.weights.table import Table

PIECE_BYTES = 1 << 24


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class LazyTensor:
    """A tensor of known shape and type, whose values are read when they are asked for.

    read: returns them in `shape`, in any type and in any order in memory.
    """

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype
    read: Callable[[], np.ndarray]

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize

    def pieces(self) -> Iterator[np.ndarray]:
        """Yields the values in order, in contiguous arrays of `dtype`; each is a few megabytes, so
        that no second copy of the tensor is made by a change of type or of order.
        """
        array = self.read()
        array = array[None] if array.ndim == 0 else array
        rows = max(1, PIECE_BYTES // max(1, array[:1].nbytes))
        for start in range(0, len(array), rows):
            part = cast(self.name, array[start : start + rows], self.dtype)
            yield np.ascontiguousarray(part)

    def whole(self) -> np.ndarray:
        """Returns all values as one contiguous array of `dtype`."""
        return np.asarray(cast(self.name, self.read(), self.dtype), order="C")


Tensors = Iterable[LazyTensor]


def lazy(name: str, array: np.ndarray) -> LazyTensor:
    """Returns an array in memory as a `LazyTensor`."""
    return LazyTensor(name=name, shape=array.shape, dtype=array.dtype, read=lambda: array)


def export_params(
    table: Table, params: ParamSource, abstract: Params, *, dtype: Any = None
) -> Iterator[LazyTensor]:
    """Yields every tensor of a model like `abstract` with the leaves in
    `params`, in the names and layout of `table`: leaf after leaf, each layer after layer.

    `dtype` is the type of floating tensors; None keeps theirs. Nothing is read yet; reading raises
    `UserError` where `dtype` cannot hold a value.
    """
    for name, slot in plan(table, abstract).items():
        kind = target_dtype(params.dtype(slot.path, slot.index), dtype)
        read = _reading(params, slot)
        yield LazyTensor(name=name, shape=slot.shape, dtype=kind, read=read)


def _reading(params: ParamSource, slot: Slot) -> Callable[[], np.ndarray]:
    return lambda: slot.transform.inverse(params.read(slot.path, slot.index))
