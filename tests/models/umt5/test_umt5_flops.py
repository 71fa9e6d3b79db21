"""Operations by formula against the compiler's count."""

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from skyreels_jax.models.umt5.config import UMT5Config
from skyreels_jax.models.umt5.flops import forward_flops
from skyreels_jax.models.umt5.modeling import UMT5Encoder


def test_one_layer_within_five_percent_of_the_compilers_count():
    config = UMT5Config(vocab_size=64, d_model=256, d_kv=64, d_ff=512, num_layers=1, num_heads=8)
    graphdef, state = nnx.split(nnx.eval_shape(lambda: UMT5Encoder(config, rngs=nnx.Rngs(0))))

    def run(state, ids, mask):
        return nnx.merge(graphdef, state)(ids, mask)

    arguments = [jax.ShapeDtypeStruct((1, 128), kind) for kind in (jnp.int32, jnp.bool_)]
    counted = jax.jit(run).lower(state, *arguments).compile().cost_analysis()["flops"]
    assert forward_flops(config, 128) == pytest.approx(counted, rel=0.05)
