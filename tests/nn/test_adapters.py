"""Adapters in a model: unchanged at first, merged weights' function later, no other gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from skyreels_jax.core.errors import UserError
from skyreels_jax.core.tree import named_leaves
from skyreels_jax.nn.linear import MLP, Linear
from skyreels_jax.nn.lora import Fixed, add_adapters
from skyreels_jax.nn.stack import UNROLLED, scan, stack

TARGETS = ("blocks/mlp/up/kernel", "head/.*")
RANK, ALPHA = 2, 6.0


class Layer(nnx.Module):
    def __init__(self, *, rngs):
        self.mlp = MLP(4, 6, 4, activation=jnp.tanh, rngs=rngs)
        self.shift = nnx.Param(jnp.full(4, 0.5))

    def __call__(self, x):
        return x + self.mlp(x) + self.shift[...][None]


class Model(nnx.Module):
    def __init__(self, depth=3):
        rngs = nnx.Rngs(0)
        self.blocks = stack(lambda rngs: Layer(rngs=rngs), depth, rngs=rngs)
        self.head = Linear(4, 3, dtype=jnp.dtype("float32"), rngs=rngs)

    def __call__(self, x, *, remat="none"):
        return self.head(scan(self.blocks, x, remat=remat))


def adapted(depth=3, targets=TARGETS, *, rank=RANK, alpha=ALPHA, within="", seed=1):
    model = Model(depth)
    rngs = nnx.Rngs(seed)
    add_adapters(model, targets, rank=rank, alpha=alpha, within=within, rngs=rngs)
    return model


def moved(params):
    """Parameters of which none is zero."""
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda p: p + 0.2 * rng.normal(size=p.shape).astype(np.float32), params)


X = jax.random.normal(jax.random.key(1), (5, 4))


def test_only_factors_are_parameters_and_the_model_is_unchanged():
    plain, model = Model(), adapted()
    np.testing.assert_array_equal(model(X), plain(X))
    graphdef, params, rest = nnx.split(model, nnx.Param, ...)
    shapes = {name: leaf.shape for name, leaf in named_leaves(nnx.to_pure_dict(params))}
    assert shapes == {
        "blocks/mlp/up/adapter/down/kernel": (3, 4, 2),
        "blocks/mlp/up/adapter/up/kernel": (3, 2, 6),
        "head/adapter/down/kernel": (4, 2),
        "head/adapter/up/kernel": (2, 3),
    }
    assert all(isinstance(v, Fixed) for _, v in nnx.to_flat_state(rest))
    before = nnx.to_pure_dict(nnx.state(plain))
    jax.tree.map(np.testing.assert_array_equal, nnx.to_pure_dict(rest), before)
    # Down is drawn layer by layer as peft draws it, up is zeros.
    down = model.blocks.mlp.up.adapter.down.kernel[...]
    assert float(jnp.abs(down).max()) <= 0.5 and not np.allclose(down[0], down[1])
    assert not model.blocks.mlp.up.adapter.up.kernel[...].any()
    other = adapted(seed=2).blocks.mlp.up.adapter.down.kernel[...]
    assert not np.allclose(down, other)


@pytest.mark.parametrize(
    ("depth", "remat"), [(3, "none"), (3, "block"), (UNROLLED + 1, "none"), (UNROLLED + 1, "dots")]
)
def test_function_and_gradient_are_those_of_merged_weights(depth, remat):
    graphdef, params, rest = nnx.split(adapted(depth), nnx.Param, ...)
    params, rest = moved(nnx.to_pure_dict(params)), nnx.to_pure_dict(rest)
    plain, scale = nnx.split(Model(depth))[0], ALPHA / RANK

    def merged(params):
        up, head = params["blocks"]["mlp"]["up"]["adapter"], params["head"]["adapter"]
        tree = jax.tree.map(jnp.asarray, rest)
        tree["blocks"]["mlp"]["up"]["kernel"] += scale * up["down"]["kernel"] @ up["up"]["kernel"]
        tree["head"]["kernel"] += scale * head["down"]["kernel"] @ head["up"]["kernel"]
        return jnp.sum(jnp.sin(nnx.merge(plain, tree)(X)))

    def small(params):
        return jnp.sum(jnp.sin(nnx.merge(graphdef, params, rest)(X, remat=remat)))

    (value, grads), (expected, others) = (
        jax.jit(jax.value_and_grad(total))(params) for total in (small, merged)
    )
    np.testing.assert_allclose(value, expected, rtol=1e-5, atol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), grads, others)


def test_no_matrix_of_the_size_of_a_weight_is_made():
    """Neither the product of the factors nor a gradient of the weights: the sizes in the program
    are those of the weight itself, of tokens and of factors."""
    model = Linear(32, 48, rngs=nnx.Rngs(0))
    outer = nnx.Dict(layer=model)
    add_adapters(outer, ["layer/kernel"], rank=2, alpha=1.0, rngs=nnx.Rngs(0))
    graphdef, params, rest = nnx.split(outer, nnx.Param, ...)

    def total(params, rest):
        return jnp.sum(jnp.sin(nnx.merge(graphdef, params, rest)["layer"](jnp.ones((5, 32)))))

    jaxpr = jax.make_jaxpr(jax.grad(total))(params, rest)
    made = [v.aval.shape for equation in jaxpr.eqns for v in equation.outvars]
    assert made and not {(32, 48), (48, 32)} & set(made)


def test_layers_that_compute_in_float32_do_so_with_adapters():
    graphdef, state = nnx.split(adapted())
    low = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), state)
    assert nnx.merge(graphdef, low)(X.astype(jnp.bfloat16)).dtype == jnp.float32


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"targets": ("blocks/mlp/upp/kernel",)}, "'blocks/mlp/upp/kernel' matches no linear"),
        ({"targets": ("head",)}, "of blocks/mlp/down/kernel, blocks/mlp/up/kernel, head/kernel"),
        ({"targets": (*TARGETS, "blocks/shift")}, "'blocks/shift' matches no linear layer"),
        ({"within": "blocks/"}, "'head/.*' matches no linear layer"),
        ({"rank": 4}, "lora.rank: 4 is more than the smallest of the layers has; legal: 1 to 3"),
    ],
)
def test_what_cannot_be_adapted_is_refused(options, message):
    with pytest.raises(UserError) as caught:
        adapted(**options)
    assert message in str(caught.value)
