"""Modules taken apart and put together as flax does it, without a cycle that keeps arrays."""

import gc
import weakref

import jax
import numpy as np
import pytest
from flax import nnx

from skyreels_jax.nn.whole import put_together, taken_apart


class Pair(nnx.Module):
    def __init__(self):
        self.layers = nnx.List([nnx.Linear(2, 3, rngs=nnx.Rngs(seed)) for seed in range(2)])
        self.norm = nnx.LayerNorm(3, rngs=nnx.Rngs(0))

    def __call__(self, x):
        return self.norm(self.layers[1](x[:, :2]) + self.layers[0](x[:, :2]))


def test_it_is_what_flax_does():
    graphdef, params = taken_apart(Pair())
    expected, state = nnx.split(Pair())
    assert graphdef == expected
    jax.tree.map(np.testing.assert_array_equal, params, nnx.to_pure_dict(state))
    x = np.ones((4, 3), np.float32)
    np.testing.assert_array_equal(put_together(graphdef, params)(x), nnx.merge(graphdef, state)(x))


@pytest.mark.parametrize("own", [True, False])
def test_arrays_go_with_their_last_name(own):
    """flax's own way is tried as well: where it leaves no cycle any more, ours can go."""
    gc.collect()
    gc.disable()
    try:
        graphdef, params = taken_apart(Pair())
        kept = weakref.ref(params["norm"]["scale"])
        made = put_together(graphdef, params) if own else nnx.merge(graphdef, params)
        del params, made
        assert (kept() is None) == own
    finally:
        gc.enable()
