"""How many operations a function takes: its products and convolutions, as jax traces them."""

import math
from collections.abc import Callable, Iterator
from typing import Any


def operations(function: Callable, *arguments: Any) -> float:
    """Returns the operations of all products, a multiply-add as two; arguments may be abstract.

    Raises `NotImplementedError` for loops of unknown length.
    """
    import jax

    return _of(jax.make_jaxpr(function)(*arguments).jaxpr)


def _of(jaxpr: Any) -> float:
    total = 0.0
    for equation in jaxpr.eqns:
        name, parts = equation.primitive.name, [_of(part) for part in _inner(equation.params)]
        if name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            lhs = equation.invars[0].aval.shape
            total += 2.0 * equation.outvars[0].aval.size * math.prod(lhs[i] for i in contracted)
        elif name == "conv_general_dilated":
            kernel = equation.invars[1].aval
            outputs = kernel.shape[equation.params["dimension_numbers"].rhs_spec[0]]
            total += 2.0 * equation.outvars[0].aval.size * kernel.size / outputs
        elif name == "scan":
            total += equation.params["length"] * sum(parts)
        elif name == "cond":
            total += max(parts)
        elif name == "while" and any(parts):
            raise NotImplementedError("how often a while loop runs is not known")
        else:
            total += sum(parts)
    return total


def _inner(params: dict[str, Any]) -> Iterator[Any]:
    """Yields the jaxprs that an equation calls."""
    for value in params.values():
        for one in value if isinstance(value, tuple | list) else [value]:
            one = getattr(one, "jaxpr", one)  # a closed one
            if hasattr(one, "eqns"):
                yield one
