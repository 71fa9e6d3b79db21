"""The autoencoder's objective against its definition."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from skyreels_jax.objectives.vae import VAEObjective, charbonnier, gradient_l1, kl, psnr


class Echo(nnx.Module):
    """Latents are a constant; the reconstruction is the video plus an offset."""

    def __init__(self, offset):
        self.offset = nnx.Param(jnp.float32(offset))

    def encode(self, video):
        self.video = nnx.data(video)
        shape = (video.shape[0], 2, 2, 2, 4)
        return jnp.full(shape, 0.5), jnp.full(shape, -1.0)

    def decode(self, latents, *, clip):
        assert not clip
        return self.video + self.offset[...]


def video(batch=3, frames=5, size=8):
    return jax.random.uniform(jax.random.key(0), (batch, frames, size, size, 3), minval=-1)


def test_terms_and_weights():
    offset, clip = 0.1, video()
    objective = VAEObjective(epsilon=1e-3, gradient_weight=0.5, kl_weight=2.0)
    out = objective(Echo(offset), {"video": clip}, jax.random.key(1))
    assert float(out.weight) == 3
    means = {name: float(value) / 3 for name, value in out.metrics.items()}
    divergence = 0.5 * (0.25 + np.exp(-1) - 1 + 1) * 32 / (5 * 8 * 8 * 3)
    assert means["charbonnier"] == pytest.approx(np.sqrt(0.01 + 1e-6) - 1e-3, rel=1e-4)
    assert means["gradient"] == pytest.approx(0, abs=1e-6)
    assert means["kl"] == pytest.approx(divergence, rel=1e-5)
    loss = means["charbonnier"] + 0.5 * means["gradient"] + 2 * means["kl"]
    assert float(out.total) / 3 == pytest.approx(loss, rel=1e-5)


def test_gradient_term_sees_edges_in_space_and_time():
    clip = video(1)
    for axis in (1, 2, 3):
        ramp = jnp.broadcast_to(
            jnp.arange(clip.shape[axis], dtype=jnp.float32).reshape(
                [-1 if a == axis else 1 for a in range(5)]
            ),
            clip.shape,
        )
        assert float(gradient_l1(clip + 0.1 * ramp, clip)[0]) == pytest.approx(0.1 / 3, rel=1e-4)
    one_frame = clip[:, :1]
    assert np.isfinite(gradient_l1(one_frame + 0.1, one_frame)).all()


def test_parts():
    zero = jnp.zeros((2, 1, 2, 2, 4))
    np.testing.assert_allclose(kl(zero, zero), 0)
    np.testing.assert_allclose(charbonnier(jnp.zeros((2, 1, 2, 2, 3)), 1e-3), 0, atol=1e-9)
    clip = video(1) * 0.5
    np.testing.assert_allclose(psnr(clip + 0.02, clip), 40, rtol=1e-4)


def test_values_outside_the_range_of_pixels_have_a_gradient():
    def loss(offset):
        return VAEObjective()(Echo(offset), {"video": video()}, jax.random.key(0)).total

    assert abs(float(jax.grad(loss)(5.0))) > 0.1
