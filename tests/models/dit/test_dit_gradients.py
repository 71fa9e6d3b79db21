"""Gradients of all parameters and of the latents against torch autograd, float32: 1e-4."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from dit_oracle import SMALL, jax_video, pair, parameters, relative_error, torch_video
from flax import nnx

from skyreels_jax.core.tree import named_leaves

CONFIG = dataclasses.replace(
    SMALL, image_dim=12, added_kv_proj_dim=SMALL.width, inject_sample_info=True
)


@pytest.mark.filterwarnings("ignore")
def test_gradients_equal_torch():
    theirs, ours = pair(CONFIG)
    rng = np.random.default_rng(0)

    def draw(*shape):
        return jnp.asarray(rng.standard_normal(shape), jnp.float32)

    latents, text, image = draw(1, 3, 4, 6, 4), draw(1, 512, 24), draw(1, 5, 12)
    timestep, cotangent = jnp.asarray([[0.0, 310.5, 999.0]]), draw(1, 3, 4, 6, 3)

    video = torch_video(latents).requires_grad_()
    output = theirs(
        video,
        torch.tensor(np.asarray(timestep)),
        torch.tensor(np.asarray(text)),
        encoder_hidden_states_image=torch.tensor(np.asarray(image)),
        enable_diffusion_forcing=True,
        fps=[1],
    ).sample
    (output * torch_video(cotangent)).sum().backward()

    ours.remat = "block"  # half the time to compile; nn/test_stack.py shows that all kinds agree
    graphdef, state = nnx.split(ours)

    def total(state, latents):
        velocity = nnx.merge(graphdef, state)(
            latents,
            timestep,
            text,
            fps=jnp.asarray([24]),
            image_context=image,
        )
        return jnp.sum(velocity * cotangent)

    grads, latent_grad = jax.jit(jax.grad(total, (0, 1)))(state, latents)
    assert relative_error(latent_grad, jax_video(video.grad)) < 1e-4
    expected = parameters(CONFIG, {name: p.grad for name, p in theirs.named_parameters()})
    mine = dict(named_leaves(nnx.to_pure_dict(grads)))
    for name, leaf in named_leaves(expected):
        assert relative_error(mine[name], leaf) < 1e-4, name
