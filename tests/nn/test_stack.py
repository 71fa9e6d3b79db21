"""Stacked blocks: storage, one scan, rematerialisation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from skyreels_jax.core.errors import UserError
from skyreels_jax.nn.linear import Linear
from skyreels_jax.nn.stack import REMAT, UNROLLED, fold, scan, stack


class Layer(nnx.Module):
    def __init__(self, *, rngs):
        self.linear = Linear(4, 4, rngs=rngs)

    def __call__(self, x, shift, *, scale):
        return x + jnp.tanh(self.linear(x)) * scale + shift


def make(depth: int = 3) -> nnx.Module:
    return stack(lambda rngs: Layer(rngs=rngs), depth, rngs=nnx.Rngs(0))


def test_layers_are_independent_draws_on_a_leading_axis():
    kernel = make().linear.kernel[...]
    assert kernel.shape == (3, 4, 4)
    assert not np.allclose(kernel[0], kernel[1])
    again = make().linear.kernel[...]
    np.testing.assert_array_equal(kernel, again)


def test_shapes_without_arrays():
    shapes = nnx.to_pure_dict(nnx.state(nnx.eval_shape(make)))
    assert shapes["linear"]["bias"].shape == (3, 4)


@pytest.mark.parametrize(
    ("remat", "depth"), [(remat, depth) for remat in REMAT for depth in (3, UNROLLED + 1)]
)
def test_scan_is_a_loop_over_layers_forward_and_backward(remat, depth):
    graphdef, state = nnx.split(make(depth))
    x = jnp.arange(8.0).reshape(2, 4)

    def scanned(state):
        y = scan(nnx.merge(graphdef, state), x, 0.1, remat=remat, scale=0.5)
        return jnp.sum(jnp.sin(y)), y

    def looped(state):
        y = x
        for i in range(depth):
            layer = nnx.merge(graphdef, jax.tree.map(lambda leaf, i=i: leaf[i], state))
            y = layer(y, 0.1, scale=0.5)
        return jnp.sum(jnp.sin(y)), y

    grads, y = jax.grad(scanned, has_aux=True)(state)
    expected_grads, expected = jax.grad(looped, has_aux=True)(state)
    np.testing.assert_allclose(y, expected, atol=1e-6)
    for a, b in zip(jax.tree.leaves(grads), jax.tree.leaves(expected_grads), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


@pytest.mark.parametrize("depth", [3, UNROLLED + 1])
def test_fold_hands_each_layer_its_own_and_stacks_what_they_give(depth):
    x, own = jnp.arange(8.0).reshape(2, 4), {"shift": jnp.linspace(-1, 1, depth)}

    def step(layer, carry, own):
        carry = layer(carry, own["shift"], scale=0.5)
        return carry, carry[:, 0]

    y, columns = fold(make(depth), step, x, own)
    expected = scan(make(depth), x, own["shift"][0], scale=0.5)
    assert columns.shape == (depth, 2)
    np.testing.assert_array_equal(columns[-1], y[:, 0])
    assert not np.allclose(y, expected)
    same = {"shift": jnp.full(depth, own["shift"][0])}
    np.testing.assert_allclose(fold(make(depth), step, x, same)[0], expected, atol=1e-6)


def test_unknown_remat():
    with pytest.raises(UserError, match="did you mean 'block'"):
        scan(make(), jnp.zeros((1, 4)), 0.0, remat="blocks", scale=1.0)
