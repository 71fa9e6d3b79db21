"""A reward model's tensors on disk: our own names, stacked as they are."""

from skyreels_jax.core.tree import named_leaves
from skyreels_jax.core.types import Params
from skyreels_jax.weights.table import Rule, Table


def native_table(abstract: Params) -> Table:
    """Returns the table of a model like `abstract`: "a/b/kernel" is stored as "a.b.kernel"."""
    return tuple(Rule(path.replace("/", "."), path) for path, _ in named_leaves(abstract))
