"""Tree paths as text: "blocks/attn1/q/kernel"."""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from skyreels_jax.core.errors import UserError


def path_name(path: tuple) -> str:
    """Joins a jax key path with "/"."""
    return "/".join(str(getattr(k, "key", getattr(k, "idx", getattr(k, "name", k)))) for k in path)


def named_leaves(tree: Any) -> Iterator[tuple[str, Any]]:
    """Yields (path, leaf) of every leaf of `tree`."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        yield path_name(path), leaf


def count_parameters(tree: Any) -> int:
    """Returns the number of scalars in `tree` (arrays or abstract arrays)."""
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def cast(tree: Any, dtype: Any, *, kept: Callable[[str], bool]) -> Any:
    """Returns `tree` with its floating-point leaves of `dtype`, but for those at `kept` paths."""

    def one(path: tuple, leaf: jax.Array | np.ndarray) -> jax.Array | np.ndarray:
        floating = jnp.issubdtype(leaf.dtype, jnp.floating)
        name = path_name(path).removesuffix("/value")  # of a Variable
        return leaf.astype(dtype) if floating and not kept(name) else leaf

    return jax.tree_util.tree_map_with_path(one, tree)


def matched(stored: Any, like: Any, *, of: str) -> Any:
    """Returns the leaves of `stored` as a tree like `like` (arrays or abstract arrays).

    Raises `UserError`, which says what is odd about `of`, where paths or shapes differ.
    """
    leaves, wanted = dict(named_leaves(stored)), dict(named_leaves(like))
    odd = sorted(set(leaves) ^ set(wanted))
    odd += [n for n, leaf in wanted.items() if n in leaves and leaves[n].shape != leaf.shape]
    if odd:
        raise UserError(f"{of} holds another model: {', '.join(odd[:5])} differ")
    return jax.tree.unflatten(jax.tree.structure(like), [leaves[name] for name in wanted])
