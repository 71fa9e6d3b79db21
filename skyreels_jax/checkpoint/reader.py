"""The parameters in a checkpoint, read one part at a time, by whatever devices it was written."""

import copy
import functools
import pathlib
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
import tensorstore

from skyreels_jax.checkpoint.manager import Checkpoints
from skyreels_jax.checkpoint.writer import Leaf
from skyreels_jax.core.errors import UserError
from skyreels_jax.core.run_folder import is_checkpoint
from skyreels_jax.core.tree import matched, named_leaves
from skyreels_jax.core.types import Params

Index = tuple[int, ...]
ROOTS = {"ema": "ema", "raw": "params"}  # of the trees in a training state
# One chunk at a time is read and decompressed; what waits for its turn would be in memory, too.
ONE_BY_ONE = {"data_copy_concurrency": {"limit": 1}, "file_io_concurrency": {"limit": 1}}


def find_checkpoint(path: pathlib.Path) -> pathlib.Path:
    """Returns `path` if it is one checkpoint of a run, or else the newest under `path`/checkpoints.

    Raises `UserError` if there is none.
    """
    if is_checkpoint(path):
        return path
    with Checkpoints(path / "checkpoints") as checkpoints:
        step = checkpoints.latest()
    if step is None:
        raise UserError(f"no checkpoint under {path / 'checkpoints'} yet")
    return path / "checkpoints" / str(step)


class CheckpointParams:
    """Parameters by path, as they are stored; a `weights.params.ParamSource`.

    checkpoint: as `find_checkpoint` returns it.
    weights: "ema", the averaged ones, or "raw"; None: averaged ones if the run kept them.
    Arrays lie in chunks, and nothing less than a chunk can be read. `Checkpoints` makes them no
    larger than a layer; in checkpoints of earlier versions a chunk is all layers, or what one
    device had of them.
    Raises `UserError` where there are no such parameters.
    """

    def __init__(self, checkpoint: pathlib.Path, *, weights: str | None = None):
        self.name, self._folder = str(checkpoint), checkpoint.absolute() / "state"
        self._context = tensorstore.Context(ONE_BY_ONE)
        state = ocp.StandardCheckpointHandler().metadata(self._folder).tree
        if weights == "ema" and not state.get("ema"):
            raise UserError(f"{checkpoint} holds no averaged weights (ema); legal: raw")
        weights = weights or ("ema" if state.get("ema") else "raw")
        self._root = ROOTS[weights]
        self.leaves = dict(named_leaves(state[self._root]))
        self._slab: tuple[str, int, np.ndarray] | None = None

    def within(self, part: str) -> "CheckpointParams":
        """Returns those of one part of the model, by their paths in it."""
        other = copy.copy(self)
        other._root, start = f"{self._root}.{part}", f"{part}/"
        other.leaves = {
            path.removeprefix(start): leaf
            for path, leaf in self.leaves.items()
            if path.startswith(start)
        }
        other._slab = None
        return other

    def tree(self) -> Params:
        """Returns them as they were nested; each leaf is read when it is used."""
        tree: Params = {}
        for path, leaf in self.leaves.items():
            *above, name = path.split("/")
            inside = functools.reduce(lambda part, key: part.setdefault(key, {}), above, tree)
            read = functools.partial(self.read, path)
            part = functools.partial(self.part, path)
            kind = self.dtype(path)
            inside[name] = Leaf(shape=tuple(leaf.shape), dtype=kind, read=read, part=part)
        return tree

    def dtype(self, path: str, index: Index = ()) -> np.dtype:
        del index
        return np.dtype(self.leaves[path].dtype)

    def read(self, path: str, index: Index = ()) -> np.ndarray:
        """Returns `leaf[index]`. The chunks in which it lies are kept until others are read."""
        if not index:
            return self._rows(path, 0, max([1, *self.leaves[path].shape[:1]]))
        start = index[0] - index[0] % self._chunk(path)
        if self._slab is None or self._slab[:2] != (path, start):
            self._slab = None  # before the next one is read
            self._slab = path, start, self._rows(path, start, start + self._chunk(path))
        return np.asarray(self._slab[2][index[0] - start][index[1:]])

    def part(self, path: str, index: tuple[slice, ...]) -> np.ndarray:
        """Returns `leaf[index]`; of all chunks, those in which it lies are read."""
        return self._open(path)[index].read().result()

    def _chunk(self, path: str) -> int:
        """Returns how many rows of the first axis a chunk has."""
        return max([1, *self.leaves[path].storage.chunk_shape[:1]])

    def _rows(self, path: str, start: int, stop: int) -> np.ndarray:
        """Returns the rows of the first axis; a leaf without axes whole."""
        store, step = self._open(path), self._chunk(path)
        if not store.shape or stop - start <= step:
            return store[start:stop].read().result() if store.shape else store.read().result()
        rows = np.empty((stop - start, *store.shape[1:]), self.dtype(path))
        for at in range(start, stop, step):
            end = min(at + step, stop)
            rows[at - start : end - start] = store[at:end].read().result()
        return rows

    def _open(self, path: str) -> tensorstore.TensorStore:
        place = {"driver": "file", "path": f"{self._folder}/"}
        name = f"{self._root}.{path.replace('/', '.')}/"
        spec = {"driver": "zarr", "kvstore": {"driver": "ocdbt", "base": place, "path": name}}
        return tensorstore.open(spec, read=True, context=self._context).result()


def restore_params(path: str | pathlib.Path, like: Params) -> Params:
    """Returns the parameters in the checkpoint `path`, or in the newest of the run there, as a tree
    like `like` (arrays or abstract arrays), each as `placed` does it: averaged ones where the run
    kept them.

    Raises `UserError` if there is no checkpoint, or one of another model.
    """
    stored = CheckpointParams(find_checkpoint(pathlib.Path(path)))
    found = matched(stored.tree(), like, of=f"the checkpoint {stored.name}")
    return jax.tree.map(placed, found, like)


def placed(leaf: Any, like: Any, dtype: Any = None) -> np.ndarray | jax.Array:
    """Returns an array (that may be a `Leaf`, and read now) where `like` says, or else numpy's; of
    `dtype`, None: as it is. Of many processes each reads the parts of its devices, if it can.
    """
    if (sharding := getattr(like, "sharding", None)) is None:
        return np.asarray(leaf, dtype)
    read = getattr(leaf, "part", None) or np.asarray(leaf).__getitem__
    found: dict[tuple, np.ndarray] = {}

    def part(index: tuple[slice, ...]) -> np.ndarray:
        key = tuple((one.start, one.stop) for one in index)
        if key not in found:  # devices may have the same
            found[key] = np.asarray(read(index), dtype)
        return found[key]

    return jax.make_array_from_callback(leaf.shape, sharding, part)
