"""Rules that say which axes of a mesh each parameter is divided over."""

import re
from collections.abc import Sequence
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from skyreels_jax.core.errors import UserError
from skyreels_jax.core.tree import named_leaves, path_name
from skyreels_jax.core.types import Params

# (regular expression of whole parameter paths, the mesh axes of the dimensions). The first rule
# that matches counts.
Rules = Sequence[tuple[str, PartitionSpec]]


WHOLE: Rules = ((r".*", PartitionSpec()),)  # of models so small that every device holds all of them


def within(prefix: str, rules: Rules) -> Rules:
    """Returns `rules` for a part of a larger model, below `prefix`."""
    return tuple((f"{re.escape(prefix)}/{pattern}", spec) for pattern, spec in rules)


def specs(params: Params, rules: Rules) -> Any:
    """Returns the PartitionSpec of every leaf of `params` (arrays or abstract arrays).

    Raises `ValueError`, a fault of the table, which lists the parameters without a rule and the
    rules that no parameter needs.
    """
    needed: set[int] = set()
    missing: list[str] = []

    def spec(path: tuple, leaf: Any) -> PartitionSpec:
        name = path_name(path)
        for number, (pattern, found) in enumerate(rules):
            if re.fullmatch(pattern, name):
                if len(found) > leaf.ndim:
                    missing.append(f"{name} {leaf.shape} (its rule has {len(found)} dimensions)")
                needed.add(number)
                return found
        missing.append(f"{name} {leaf.shape}")
        return PartitionSpec()

    found = jax.tree_util.tree_map_with_path(spec, params)
    faults = [f"no rule for {name}" for name in missing]
    faults += [f"dead rule {p!r}" for n, (p, _) in enumerate(rules) if n not in needed]
    if faults:
        raise ValueError("the sharding rules do not fit the model: " + "; ".join(faults))
    return found


def shardings(params: Params, rules: Rules, mesh: Mesh) -> Any:
    """Returns the `NamedSharding` of every parameter.

    Raises `UserError` where the mesh does not divide a dimension of one, as `specs` does else.
    """
    found, odd = specs(params, rules), []
    for (name, leaf), spec in zip(named_leaves(params), jax.tree.leaves(found), strict=True):
        for size, axes in zip(leaf.shape, spec, strict=False):
            if size % (over := _devices(mesh, axes)):
                odd.append(f"{size} of {name} over {over} devices ({axes})")
    if odd:
        more = f" and {len(odd) - 3} more" if len(odd) > 3 else ""
        raise UserError(
            f"the mesh does not divide {'; '.join(odd[:3])}{more}; legal: divisors of these sizes"
        )
    return jax.tree.map(lambda spec: NamedSharding(mesh, spec), found)


def _devices(mesh: Mesh, axes: str | Sequence[str] | None) -> int:
    names = () if axes is None else (axes,) if isinstance(axes, str) else axes
    count = 1
    for name in names:
        count *= mesh.shape[name]
    return count
