"""Modules as structure and parameters, and back.

`nnx.merge` and `nnx.to_pure_dict` of nested states leave a function that refers to itself and to
every array: until Python looks for cycles, which nothing but allocations makes it do, a device is
full of weights that nobody has. Flat states are taken as they are.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from flax import nnx

from skyreels_jax.core.types import Params


def taken_apart(module: nnx.Module) -> tuple[nnx.GraphDef, Params]:
    """Returns what `nnx.split` and `nnx.to_pure_dict` do."""
    graphdef, state = nnx.split(module)
    return graphdef, _pure(state)


def put_together(graphdef: nnx.GraphDef, params: Params) -> Any:
    """Returns what `nnx.merge` does, of parameters as `taken_apart` returns them."""
    return nnx.merge(graphdef, nnx.FlatState(_flat(params, ()), sort=True))


def _pure(state: Any) -> Any:
    if isinstance(state, Mapping):
        return {name: _pure(part) for name, part in state.items()}
    return state.get_value() if isinstance(state, nnx.Variable) else state


def _flat(params: Params, path: tuple[Any, ...]) -> Iterator[tuple[tuple[Any, ...], Any]]:
    if not isinstance(params, Mapping):
        yield path, params
        return
    for name, part in params.items():
        yield from _flat(part, (*path, name))
