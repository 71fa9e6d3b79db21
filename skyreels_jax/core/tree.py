"""Tree paths as text: "blocks/attn1/q/kernel"."""

from collections.abc import Iterator
from typing import Any

import jax


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
