"""A transformer without the embedding of frame rates that does what the one with it does."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from skyreels_jax.core.errors import UserError
from skyreels_jax.models.dit.config import DiTConfig
from skyreels_jax.models.dit.fps import fold_fps, tells_fps
from skyreels_jax.models.dit.modeling import SkyReelsV2Transformer3D
from skyreels_jax.testing.micro import random_params

TOLD = DiTConfig(
    num_attention_heads=2,
    attention_head_dim=12,
    in_channels=4,
    out_channels=4,
    text_dim=8,
    freq_dim=8,
    ffn_dim=16,
    num_layers=1,
    inject_sample_info=True,
)


def model(config, params):
    abstract = nnx.eval_shape(lambda: SkyReelsV2Transformer3D(config, rngs=nnx.Rngs(0)))
    return nnx.merge(nnx.split(abstract)[0], jax.tree.map(jnp.asarray, params))


def test_one_frame_rate_is_folded_in_exactly():
    params = random_params("transformer", TOLD)
    assert tells_fps(params)
    rng = np.random.default_rng(0)
    latents = jnp.asarray(rng.standard_normal((2, 2, 2, 2, 4)), jnp.float32)
    text = jnp.asarray(rng.standard_normal((2, 3, 8)), jnp.float32)
    times = jnp.asarray([[30.0, 400.0], [999.0, 0.0]])
    plain = dataclasses.replace(TOLD, inject_sample_info=False)
    run = nnx.jit(lambda model, **told: model(latents, times, text, **told))
    for fps, other in ((12, 16), (16, 24)):
        folded = fold_fps(params, fps)
        assert not tells_fps(folded) and tells_fps(params)
        wanted = run(model(TOLD, params), fps=jnp.full(2, fps))
        got = run(model(plain, folded))
        np.testing.assert_allclose(got, wanted, atol=1e-5)
        differs = run(model(TOLD, params), fps=jnp.full(2, other))
        assert np.abs(got - differs).max() > 1e-2


def test_a_model_with_the_embedding_must_be_told():
    with pytest.raises(UserError, match="pass fps"):
        model(TOLD, random_params("transformer", TOLD))(
            jnp.zeros((1, 1, 2, 2, 4)), jnp.zeros((1, 1)), jnp.zeros((1, 1, 8))
        )
