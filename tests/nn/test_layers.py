"""Linear, norms, rotary and time embeddings against torch and diffusers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from diffusers.models.transformers.transformer_skyreels_v2 import (
    SkyReelsV2RotaryPosEmbed,
    SkyReelsV2Timesteps,
)
from flax import nnx

from skyreels_jax.core.errors import UserError
from skyreels_jax.nn.linear import MLP, Linear, normal, xavier_uniform, zeros
from skyreels_jax.nn.norm import LayerNorm, RMSNorm
from skyreels_jax.nn.rope import apply_rope, rope_table, spread, timestep_embedding, turns

RNG = np.random.default_rng(0)


def draw(*shape) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def test_linear_keeps_leading_axes_and_computes_in_the_kernels_dtype():
    layer = Linear(5, 3, rngs=nnx.Rngs(0))
    x = draw(2, 3, 4, 5)
    expected = x @ np.asarray(layer.kernel[...]) + np.asarray(layer.bias[...])
    np.testing.assert_allclose(layer(jnp.asarray(x)), expected, atol=1e-6)
    layer.kernel.set_value(layer.kernel[...].astype(jnp.bfloat16))
    assert layer(jnp.asarray(x)).dtype == jnp.bfloat16
    assert Linear(5, 3, bias=False, rngs=nnx.Rngs(0)).bias is None


def test_mlp_in_float32_when_asked():
    layer = MLP(4, 8, 2, activation=jax.nn.silu, dtype=jnp.dtype("float32"), rngs=nnx.Rngs(0))
    layer.up.kernel.set_value(layer.up.kernel[...].astype(jnp.bfloat16))
    assert layer(jnp.ones((3, 4), jnp.bfloat16)).dtype == jnp.float32


def test_initialisers():
    key = jax.random.key(0)
    kernel = xavier_uniform(key, (2, 2, 16, 64))  # fan in 64, fan out 64
    limit = (6 / 128) ** 0.5
    assert 0.9 * limit < float(jnp.max(jnp.abs(kernel))) <= limit
    assert abs(float(jnp.std(normal(0.02)(key, (100, 100)))) - 0.02) < 1e-3
    assert not np.any(zeros(key, (3,)))


def test_norms_equal_torch():
    x, scale, bias = draw(2, 3, 16), draw(16), draw(16)
    for ours, theirs in (
        (RMSNorm(16, eps=1e-3), torch.nn.RMSNorm(16, eps=1e-3)),
        (LayerNorm(16, eps=1e-3), torch.nn.LayerNorm(16, eps=1e-3)),
    ):
        ours.scale[...] = jnp.asarray(scale)
        theirs.weight.data = torch.tensor(scale)
        if isinstance(ours, LayerNorm):
            ours.bias[...] = jnp.asarray(bias)
            theirs.bias.data = torch.tensor(bias)
        expected = theirs(torch.tensor(x)).detach().numpy()
        np.testing.assert_allclose(ours(jnp.asarray(x)), expected, atol=2e-6)
        assert ours(jnp.asarray(x, jnp.bfloat16)).dtype == jnp.bfloat16


@pytest.mark.parametrize(
    ("head_dim", "grid"), [(32, (3, 4, 6)), (20, (5, 2, 3)), (128, (25, 7, 9))]
)
def test_rope_equals_diffusers(head_dim, grid):
    theirs = SkyReelsV2RotaryPosEmbed(head_dim, (1, 1, 1), 64)
    cos, sin = theirs(torch.zeros(1, 1, *grid))
    x = draw(2, int(np.prod(grid)), 2, head_dim)
    even, odd = torch.tensor(x).unflatten(-1, (-1, 2)).unbind(-1)
    cos, sin = cos[..., 0::2], sin[..., 1::2]
    expected = torch.stack([even * cos - odd * sin, even * sin + odd * cos], -1).flatten(-2)
    table = rope_table(grid, head_dim=head_dim, max_seq_len=64)
    ours = apply_rope(jnp.asarray(x).reshape(2, grid[0], -1, *x.shape[2:]), *table)
    np.testing.assert_allclose(ours.reshape(x.shape), expected, atol=1e-6)


def test_rope_refuses_positions_beyond_its_table():
    with pytest.raises(UserError, match="at most rope_max_seq_len = 8"):
        rope_table((9, 2, 2), head_dim=32, max_seq_len=8)


def test_rotary_scores_hang_on_distances_however_far_the_positions():
    q, k = (jnp.asarray(draw(1, 4, 1, 1, 8)) for _ in range(2))

    def scores(start):
        table = spread(turns(start + np.arange(4), 8))
        return apply_rope(q, *table)[0, :, 0, 0] @ apply_rope(k, *table)[0, :, 0, 0].T

    for start in (1_000, 10_000_000):
        np.testing.assert_allclose(scores(start), scores(0), atol=2e-6)


@pytest.mark.parametrize("width", [32, 256])
def test_timestep_embedding_equals_diffusers_in_float64(width):
    times = np.concatenate([[0, 1, 999, 999.75], RNG.uniform(0, 1000, 60)]).astype(np.float32)
    theirs = SkyReelsV2Timesteps(width, flip_sin_to_cos=True)(torch.tensor(times))
    ours = jax.jit(timestep_embedding, static_argnums=1)(jnp.asarray(times).reshape(2, -1), width)
    np.testing.assert_allclose(np.asarray(ours).reshape(-1, width), theirs.numpy(), atol=1e-6)
