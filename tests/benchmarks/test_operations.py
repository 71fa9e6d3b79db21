"""Operations that are counted from what jax traces are those of the formulas."""

import pathlib
import sys

import jax
import jax.numpy as jnp
import pytest

from skyreels_jax.models.dit.flops import forward_flops
from skyreels_jax.models.kinds import abstract_model
from skyreels_jax.testing.micro import micro_configs

sys.path.append(str(pathlib.Path(__file__).parents[2] / "benchmarks"))
from operations import operations  # noqa: E402


def some(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def test_products_convolutions_loops_and_calls():
    assert operations(jnp.matmul, some(5, 2, 3), some(5, 3, 4)) == 5 * 2 * 2 * 3 * 4
    assert operations(lambda x: x + 1, some(4)) == 0

    def conv(x, kernel):
        names = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(x, kernel, (2, 1), "SAME", dimension_numbers=names)

    assert operations(conv, some(2, 8, 6, 3), some(3, 3, 3, 5)) == 2 * (2 * 4 * 6 * 5) * 27

    def scanned(x):
        return jax.lax.scan(lambda x, _: (jax.jit(jnp.matmul)(x, x), None), x, length=7)[0]

    assert operations(scanned, some(3, 3)) == 7 * 54
    assert (
        operations(lambda x: jax.lax.cond(x[0, 0] > 0, lambda x: x @ x, jnp.sin, x), some(3, 3))
        == 54
    )
    with pytest.raises(NotImplementedError, match="while"):
        operations(lambda x: jax.lax.while_loop(jnp.any, lambda x: x @ x, x), some(3, 3))


def test_the_transformer_has_those_of_its_formula():
    config = micro_configs()["transformer"]
    graphdef, params = abstract_model("transformer", config)
    from flax import nnx

    def forward(params, latents, time, context):
        return nnx.merge(graphdef, params)(latents, time, context)

    arrays = some(1, 3, 8, 8, config.in_channels), some(1, 1), some(1, 16, config.text_dim)
    counted = operations(forward, params, *arrays)
    assert counted == pytest.approx(forward_flops(config, (3, 4, 4), text=16), rel=0.05)
