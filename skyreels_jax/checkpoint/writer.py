"""Checkpoints of parameters that are read while they are written, one part at a time."""

import asyncio
import dataclasses
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
import tensorstore

from skyreels_jax.checkpoint.chunks import chunked

Index = tuple[int, ...]
PART_BYTES = 1 << 23  # of small layers several are written at once: each writing is a file


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Leaf:
    """An array that is not there yet: `cast(read(index))` is `leaf[index]`, in `dtype`, of layers.

    part: reads `leaf[slices]` and little more, where that can be had; of one that is not cast.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    read: Callable[[Index], np.ndarray]
    cast: Callable[[np.ndarray], np.ndarray] = np.asarray
    part: Callable[[tuple[slice, ...]], np.ndarray] | None = None

    @property
    def ndim(self) -> int:
        return len(self.shape)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self.cast(self.read(())), dtype)

    @property
    def size(self) -> int:
        return int(np.prod(self.shape))

    def parts(self) -> Iterator[tuple[Any, np.ndarray]]:
        """Yields (index, `leaf[index]`) of parts that make up the leaf: several layers of a stack,
        or several rows, of about `PART_BYTES`.
        """
        whole = self.read(()) if self.ndim < 3 else None
        if self.ndim == 0:
            yield (), self.cast(whole)
            return
        rows = max(1, PART_BYTES * self.shape[0] // (self.size * self.dtype.itemsize))
        for start in range(0, self.shape[0], rows):
            part = slice(start, min(start + rows, self.shape[0]))
            yield part, self._layers(part) if whole is None else self.cast(whole[part])

    def _layers(self, part: slice) -> np.ndarray:
        layers = np.empty((part.stop - part.start, *self.shape[1:]), self.dtype)
        for n, layer in enumerate(layers, start=part.start):
            layer[...] = self.cast(self.read((n,)))
        return layers


def write_checkpoint(folder: pathlib.Path, params: Any, *, config: dict) -> None:
    """Writes checkpoint 0 under `folder`: a training state of which there is nothing but `params`.

    params: a tree of `Leaf`, written one after the other. `Checkpoints` and `restore_params` read
    it as they read others. config: as in `Checkpoints.save`.
    """
    handlers = {
        "state": ocp.PyTreeCheckpointHandler(
            type_handler_registry=ocp.type_handlers.create_type_handler_registry((Leaf, _Lazily()))
        ),
        "data": ocp.JsonCheckpointHandler(),
        "config": ocp.JsonCheckpointHandler(),
    }
    options = ocp.CheckpointManagerOptions(enable_async_checkpointing=False)
    state = {"params": params}
    items = ocp.args.Composite(
        state=ocp.args.PyTreeSave(state, save_args=jax.tree.map(chunked, state)),
        data=ocp.args.JsonSave({}),
        config=ocp.args.JsonSave(config),
    )
    with ocp.CheckpointManager(
        folder.absolute(), options=options, item_handlers=handlers
    ) as manager:
        manager.save(0, args=items)


class _Lazily(ocp.type_handlers.NumpyHandler):
    """Writes a `Leaf` as Orbax writes an array in memory, but for the values."""

    def __init__(self):
        super().__init__(deepcopy_host_arrays=False)
        self._turn, self._error = asyncio.Lock(), None

    async def _background_serialize(self, *args: Any) -> None:
        await super()._background_serialize(*args)
        if self._error is not None:
            raise self._error

    async def _open_and_write(self, value: Leaf, tspec: dict, ts_context: Any) -> None:
        store = await tensorstore.open(
            tensorstore.Spec(tspec), create=True, open=True, context=ts_context
        )
        async with self._turn:  # Orbax begins with all leaves at once
            try:
                for index, values in value.parts() if self._error is None else ():
                    await store[index].write(values)
            except Exception as error:  # raised when nobody is at work any more
                self._error = error
