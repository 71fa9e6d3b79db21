"""Block-causal self-attention: no block sees a later one, and a single block is full attention."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from skyreels_jax.kernels.attention import attention
from skyreels_jax.models.dit import SkyReelsV2Transformer3D
from skyreels_jax.testing.micro import TEXT_WIDTH, micro_configs, random_params

BLOCK, FRAMES = 2, 6


@functools.cache
def compiled(block: int, impl: str):
    """The micro transformer with `block` frames in a causal block, as a compiled function."""
    config = dataclasses.replace(micro_configs()["transformer"], num_frame_per_block=block)
    abstract = nnx.eval_shape(lambda: SkyReelsV2Transformer3D(config, rngs=nnx.Rngs(0)))
    params = jax.tree.map(jnp.asarray, random_params("transformer", config))
    model = nnx.merge(nnx.split(abstract)[0], params)
    named = functools.partial(attention, impl=impl)
    return jax.jit(lambda x, t, context: model(x, t, context, attention=named))


def batch(frames: int = FRAMES) -> list[np.ndarray]:
    """Latents, times and text; fewer frames are the first of more."""
    rng = np.random.default_rng(0)
    channels = micro_configs()["transformer"].in_channels
    context = rng.standard_normal((1, 8, TEXT_WIDTH))
    times = np.sort(rng.uniform(0, 1000, (1, FRAMES)))[:, :frames]
    latents = rng.standard_normal((1, FRAMES, 4, 4, channels))[:, :frames]
    return [x.astype(np.float32) for x in (latents, times, context)]


@pytest.mark.parametrize("impl", ["reference", "chunked"])
def test_frames_are_seen_from_their_block_on_and_nowhere_before(impl):
    run = compiled(BLOCK, impl)
    before = np.asarray(run(*batch()))
    for frame in range(FRAMES):
        latents, times, context = batch()
        latents[:, frame] += 1.0
        times[:, frame] = 0.0
        difference = np.abs(np.asarray(run(latents, times, context)) - before)
        difference = difference.max(axis=(0, 2, 3, 4))
        first = frame // BLOCK * BLOCK
        assert not difference[:first].any()  # not a bit
        assert (difference[first:] > 1e-5).all()


def test_a_first_block_is_what_the_block_alone_gives():
    run = compiled(BLOCK, "reference")
    whole = np.asarray(run(*batch()))[:, :BLOCK]
    np.testing.assert_allclose(run(*batch(BLOCK)), whole, atol=1e-5 * np.abs(whole).max())


def test_one_block_is_full_attention():
    one, full, causal = (
        np.asarray(compiled(block, "reference")(*batch())) for block in (FRAMES, 1, BLOCK)
    )
    scale = np.abs(full).max()
    np.testing.assert_allclose(one, full, atol=1e-6 * scale)
    assert np.abs(causal - full).max() > 1e-3 * scale
