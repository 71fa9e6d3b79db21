"""The video autoencoder's objective: reconstruction, its gradients, a trace of KL."""

import dataclasses
from typing import Any, Protocol, cast

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from skyreels_jax.core.rng import stream
from skyreels_jax.core.types import Batch, Latents, PRNGKey, Video
from skyreels_jax.objectives.base import LossOutput


class Autoencoder(Protocol):
    """What the objective asks of a model: mean and log variance of the latents, and pixels."""

    def encode(self, video: Video) -> tuple[Latents, Latents]: ...

    def decode(self, latents: Latents, *, clip: bool) -> Video: ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class VAEObjective:
    """Per clip: Charbonnier + gradient_weight * gradient L1 + kl_weight * KL.

    batch: {"video": [B, T, H, W, 3] in [-1, 1]}.  The total is a sum over clips, the weight their
    number.
    Charbonnier is sqrt(error^2 + epsilon^2) - epsilon, a mean over pixels; the gradient term
    compares differences of neighbours along T, H and W, a mean over each. KL is the divergence of
    the posterior from a unit normal, summed over the latent and divided by the number of pixel
    values: the same balance with a reconstruction summed over pixels (Rombach et al. 2022), and the
    same for clips of any size.
    Metrics: "charbonnier", "gradient", "kl" and "psnr" (dB, of the sampled reconstruction clipped
    to [-1, 1]).
    """

    epsilon: float = 1e-3
    gradient_weight: float = 0.5
    kl_weight: float = 1e-6

    def __call__(
        self, model: nnx.Module, batch: Batch, key: PRNGKey, *, frozen: Any = None
    ) -> LossOutput:
        del frozen
        video = batch["video"].astype(jnp.float32)
        vae = cast(Autoencoder, model)
        mean, logvar = vae.encode(video)
        noise = jax.random.normal(stream(key, "posterior"), mean.shape, mean.dtype)
        made = vae.decode(mean + jnp.exp(0.5 * logvar) * noise, clip=False).astype(jnp.float32)
        terms = {
            "charbonnier": charbonnier(made - video, self.epsilon),
            "gradient": gradient_l1(made, video),
            "kl": kl(mean, logvar) / (video.size // video.shape[0]),
        }
        loss = terms["charbonnier"] + self.gradient_weight * terms["gradient"]
        loss = loss + self.kl_weight * terms["kl"]
        terms["psnr"] = psnr(jnp.clip(made, -1, 1), video)
        metrics = {name: value.sum() for name, value in terms.items()}
        return LossOutput(loss.sum(), jnp.float32(loss.size), metrics)


def charbonnier(error: Video, epsilon: float) -> Float[Array, " B"]:
    """Returns the mean over each clip of sqrt(error^2 + epsilon^2) - epsilon."""
    return jnp.mean(jnp.sqrt(jnp.square(error) + epsilon**2) - epsilon, axis=(1, 2, 3, 4))


def gradient_l1(made: Video, video: Video) -> Float[Array, " B"]:
    """Returns each clip's mean absolute error of the differences between neighbours, averaged over
    T, H and W.
    """
    error = made - video
    axes = [axis for axis in (1, 2, 3) if error.shape[axis] > 1]
    parts = [jnp.mean(jnp.abs(jnp.diff(error, axis=axis)), axis=(1, 2, 3, 4)) for axis in axes]
    return sum(parts, start=jnp.zeros(error.shape[:1], error.dtype)) / max(len(parts), 1)


def kl(mean: Latents, logvar: Latents) -> Float[Array, " B"]:
    """Returns each clip's KL(N(mean, exp(logvar)) || N(0, 1)), summed over the latent, float32."""
    mean, logvar = mean.astype(jnp.float32), logvar.astype(jnp.float32)
    return 0.5 * jnp.sum(jnp.square(mean) + jnp.exp(logvar) - 1 - logvar, axis=(1, 2, 3, 4))


def psnr(made: Video, video: Video) -> Float[Array, " B"]:
    """Returns each clip's peak signal-to-noise ratio in dB; the peak-to-peak range is 2."""
    error = jnp.mean(jnp.square(made - video), axis=(1, 2, 3, 4))
    return 10 * jnp.log10(4 / jnp.maximum(error, 1e-10))
