"""Where the parts of a run are: weights by rules, what mirrors them alike, batches by rows."""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from skyreels_jax.core.errors import UserError
from skyreels_jax.core.tree import named_leaves, path_name
from skyreels_jax.core.types import Batch, Params, Rows
from skyreels_jax.parallel.mesh import BATCH
from skyreels_jax.parallel.rules import Rules, shardings


def abstract(tree: Any, where: Any) -> Any:
    """Returns the shapes and types of `tree`, each with its sharding of the tree `where`."""
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        tree,
        where,
    )


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Placement:
    """The devices of a run and the rules of its parameters, and of its fixed weights if it has any:
    None: every device holds all that is no parameter.
    """

    mesh: Mesh
    rules: Rules
    fixed: Rules | None = None

    @functools.cached_property
    def whole(self) -> NamedSharding:
        """Of what every device holds whole."""
        return NamedSharding(self.mesh, PartitionSpec())

    def params(self, params: Params) -> Any:
        """Returns the sharding of every parameter; raises as `rules.shardings` does."""
        return shardings(params, self.rules, self.mesh)

    def rest(self, rest: Params) -> Any:
        """Returns the sharding of all of a model that is no parameter; raises as `params` does."""
        if self.fixed is None:
            return jax.tree.map(lambda _: self.whole, rest)
        return shardings(rest, self.fixed, self.mesh)

    def alike(self, tree: Any, params: Params) -> Any:
        """Returns the shardings of `tree`, in which what mirrors a parameter, by the end of its
        path and by its shape (its averages, its moments), is placed as the parameter is, and all
        else whole.
        """
        placed = {
            name: (leaf.shape, sharding)
            for (name, leaf), sharding in zip(
                named_leaves(params), jax.tree.leaves(self.params(params)), strict=True
            )
        }

        def one(path: tuple, leaf: Any) -> NamedSharding:
            for start in range(len(path)):
                shape, sharding = placed.get(path_name(path[start:]), (None, None))
                if shape == leaf.shape:
                    return sharding
            return self.whole

        return jax.tree_util.tree_map_with_path(one, tree)

    def rows(self, batch: int, *, process: int | None = None) -> Rows:
        """Returns which blocks of a batch the devices of a process hold: not always neighbours, for
        a mesh follows the wires between chips. process: None: this one.

        Raises `UserError` where the devices cannot share the clips.
        """
        over = self.devices(*BATCH)
        if batch % over:
            raise UserError(
                f"a batch of {batch} clips cannot be shared by data x fsdp = {over} devices; "
                f"legal: multiples of {over}"
            )
        process = jax.process_index() if process is None else process
        where = NamedSharding(self.mesh, PartitionSpec(BATCH)).devices_indices_map((over,))
        held = {
            one.start or 0 for device, (one,) in where.items() if device.process_index == process
        }
        return Rows(tuple(sorted(held)), over)

    def batch(self, local: Batch) -> Batch:
        """Returns the arrays of a batch of which this process has the rows `local`; every device
        holds what has one row beside others of more.
        """
        divided = NamedSharding(self.mesh, PartitionSpec(BATCH))
        most = max(map(len, jax.tree.leaves(local)))

        def place(rows: Any) -> jax.Array:
            rows = np.asarray(rows)
            sharding = self.whole if len(rows) == 1 < most else divided
            return jax.make_array_from_process_local_data(sharding, rows)

        return jax.tree.map(place, local)

    def gathered(self, tree: Any) -> Any:
        """Returns the arrays of `tree`, wherever their parts are, whole on the first process's
        host, and None for each in the others; all have to ask.

        A device never holds more than a layer of stacked blocks for it: of the 14B model's largest
        leaf 0.3 of 11 GB.
        """
        first = jax.process_index() == 0

        def fetched(array: jax.Array) -> np.ndarray | None:
            array.block_until_ready()  # else they would pile up where nobody reads them
            return np.asarray(array.addressable_data(0)) if first else None

        def whole(leaf: jax.Array) -> np.ndarray | None:
            if leaf.ndim < 3:
                return fetched(jax.device_put(leaf, self.whole))
            layers = np.empty(leaf.shape, leaf.dtype) if first else None
            for index in range(len(leaf)):
                layer = fetched(self.layer(leaf, index))
                if layers is not None:
                    layers[index] = layer
            return layers

        return jax.tree.map(whole, tree)

    @functools.cached_property
    def layer(self) -> Callable[[jax.Array, int], jax.Array]:
        """Returns `leaf[index]` whole on every device, from a leaf that is divided among them."""
        layer = functools.partial(jax.lax.dynamic_index_in_dim, keepdims=False)
        return jax.jit(layer, out_shardings=self.whole)

    def devices(self, *axes: str) -> int:
        """Returns over how many devices these axes go."""
        return math.prod(self.mesh.shape[axis] for axis in axes)
