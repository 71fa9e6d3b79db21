"""The whole VAE against diffusers on random weights: 1e-4 of the output's scale in float32."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from diffusers.models.autoencoders import autoencoder_kl_wan as wan
from flax import nnx
from vae_oracle import (
    RESIDUAL,
    call,
    config,
    jax_video,
    pair,
    random_video,
    relative_error,
    torch_video,
)

from skyreels_jax.models.vae import AutoencoderKLWan
from skyreels_jax.models.vae.weights import diffusers_table
from skyreels_jax.testing.stored import export_tree

THREE = {"dim_mult": (1, 2, 2), "temperal_downsample": (True, True)}
CASES = {
    "wan21": ({}, (2, 9, 40, 24, 3)),
    "one frame": (THREE, (1, 1, 12, 8, 3)),
    "long": (THREE | {"num_res_blocks": 2}, (1, 17, 12, 8, 3)),
    "other time order": (
        {"temperal_downsample": (True, False, True), "decoder_base_dim": 6, "z_dim": 3},
        (1, 5, 8, 24, 3),
    ),
    "two stages": (
        {"temperal_downsample": (True,), "dim_mult": (1, 3), "in_channels": 2, "out_channels": 1},
        (1, 5, 6, 10, 2),
    ),
    "wan22": (RESIDUAL, (2, 5, 32, 48, 3)),
    "encoder attention": (THREE | {"attn_scales": (1.0, 0.25)}, (1, 5, 4, 8, 3)),
}


@pytest.fixture
def callable_attention(monkeypatch):
    """Lets diffusers' encoder call its own attention blocks: it hands them a cache they refuse."""
    plain = wan.WanAttentionBlock.forward
    monkeypatch.setattr(wan.WanAttentionBlock, "forward", lambda self, x, **_: plain(self, x))


@pytest.mark.usefixtures("callable_attention")
@pytest.mark.parametrize("name", CASES)
def test_encode_and_decode(name):
    fields, shape = CASES[name]
    theirs, graphdef, params = pair(config(**fields))
    video = random_video(*shape)
    with torch.no_grad():
        posterior = theirs.encode(torch_video(video)).latent_dist
        latents = torch.randn(posterior.mean.shape, generator=torch.Generator().manual_seed(0))
        decoded = theirs.decode(latents).sample
    mean, logvar = call(graphdef, "encode")(params, video)
    assert relative_error(mean, jax_video(posterior.mean)) < 1e-4
    assert relative_error(logvar, jax_video(posterior.logvar)) < 1e-4
    ours = call(graphdef, "decode")(params, jax_video(latents))
    assert relative_error(ours, jax_video(decoded)) < 1e-4
    assert float(jnp.abs(ours).max()) <= 1.0
    assert float((jnp.abs(ours) < 1.0).mean()) > 0.5  # the comparison was not of clipped values


def test_bfloat16_stays_within_3_percent():
    _, graphdef, params = pair(config(**THREE))
    half = jax.tree.map(lambda a: a.astype(jnp.bfloat16), params)
    video = random_video(1, 5, 16, 16, 3)
    latents = 2 * random_video(1, 2, 4, 4, 4)
    for method, inputs in (("encode", video), ("decode", latents)):
        exact = jax.tree.leaves(call(graphdef, method)(params, inputs))[0]
        rough = jax.tree.leaves(call(graphdef, method)(half, inputs))[0]
        assert rough.dtype == jnp.bfloat16
        error = np.asarray(rough, np.float32) - np.asarray(exact)
        assert np.linalg.norm(error) / np.linalg.norm(exact) < 0.03


def test_gradients_equal_torch_autograd():
    small = config(temperal_downsample=(True,), dim_mult=(1, 2))
    theirs, graphdef, params = pair(small)
    video, target = random_video(1, 3, 4, 4, 3), random_video(2, 3, 4, 4, 3)[:1] * 0.5

    def loss(params):
        model = nnx.merge(graphdef, params)
        mean, logvar = model.encode(video)
        return jnp.sum((model.decode(mean) - target) ** 2) + jnp.mean(jnp.exp(logvar))

    # diffusers drops frames after the last 1 + 4k, so it is fed the encoder's chunks by hand.
    ours = dict(export_tree(diffusers_table(small), jax.jit(jax.grad(loss))(params)))
    cache, chunks = [None] * 20, []
    for start, stop in ((0, 1), (1, 3)):
        chunk = torch_video(video[:, start:stop])
        chunks.append(theirs.encoder(chunk, feat_cache=cache, feat_idx=[0]))
    posterior = wan.DiagonalGaussianDistribution(theirs.quant_conv(torch.cat(chunks, dim=2)))
    decoded = theirs.decode(posterior.mean).sample
    total = ((decoded - torch_video(target)) ** 2).sum() + posterior.logvar.exp().mean()
    total.backward()
    for name, p in theirs.named_parameters():
        scale = max(float(p.grad.abs().max()), 1e-3)
        assert np.abs(ours[name] - p.grad.numpy()).max() / scale < 1e-4, name


def test_normalize_as_the_pipelines_do():
    model = AutoencoderKLWan(config(dim_mult=(1,), temperal_downsample=()), rngs=nnx.Rngs(0))
    latents = np.asarray(random_video(2, 3, 2, 2, 4))
    mean, std = (np.asarray(v) for v in (model.config.latents_mean, model.config.latents_std))
    np.testing.assert_allclose(
        model.normalize(jnp.asarray(latents)), (latents - mean) / std, atol=1e-5
    )
    np.testing.assert_allclose(
        model.denormalize(model.normalize(jnp.asarray(latents))), latents, atol=1e-6
    )
