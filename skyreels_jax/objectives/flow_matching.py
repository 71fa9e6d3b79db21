"""Flow matching: mean squared error of the predicted velocity at random times."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from skyreels_jax.core.errors import UserError
from skyreels_jax.core.rng import stream
from skyreels_jax.core.types import Batch, Latents, PRNGKey
from skyreels_jax.diffusion import flow
from skyreels_jax.objectives.base import COUNT, LossOutput

BINS = 4


@dataclasses.dataclass(frozen=True, kw_only=True)
class FlowMatching:
    """Velocity error at one random noise level per clip; a sum over clips, weight their number.

    batch: {"latents": [B, T, H, W, C] normalised, "cond": dict of per-sample arrays that the model
      takes as keywords, "null_cond": the same dict for the empty caption (for caption dropout)}.
    Metrics: "mse", and "mse_q0".."mse_q3" over the clips with sigma in that quarter of [0, 1].

    times: "logit_normal" draws sigma = sigmoid(mean + std * normal), "uniform" draws U(0, 1).
    shift: sigma -> shift sigma / (1 + (shift - 1) sigma) after the draw; 1 changes nothing.
    caption_dropout: probability that a clip is trained with the empty caption, which
      classifier-free guidance needs.
    Raises `UserError` for values that make no sense.
    """

    times: Literal["logit_normal", "uniform"] = "logit_normal"
    mean: float = 0.0
    std: float = 1.0
    shift: float = 1.0
    caption_dropout: float = 0.1

    def __post_init__(self):
        if self.times not in ("logit_normal", "uniform"):
            raise UserError(f"times is 'logit_normal' or 'uniform', got {self.times!r}")
        if self.std <= 0:
            raise UserError(f"std must be positive, got {self.std}")
        if self.shift <= 0:
            raise UserError(f"shift must be positive, got {self.shift}")
        if not 0 <= self.caption_dropout <= 1:
            raise UserError(f"caption_dropout is a probability, got {self.caption_dropout}")

    def __call__(
        self, model: nnx.Module, batch: Batch, key: PRNGKey, *, frozen: Any = None
    ) -> LossOutput:
        del frozen
        data = batch["latents"].astype(jnp.float32)
        cond = self.drop_captions(batch, stream(key, "caption_dropout"))
        sigma = self.draw_sigma(stream(key, "sigma"), (data.shape[0], 1))
        noise = jax.random.normal(stream(key, "noise"), data.shape, jnp.float32)
        error = velocity_error(model, data, noise, sigma, cond)
        return LossOutput(error.sum(), jnp.float32(error.size), time_metrics(error, sigma[:, 0]))

    def draw_sigma(self, key: PRNGKey, shape: tuple[int, ...]) -> Float[Array, "..."]:
        """Returns noise levels in [0, 1], independent of each other."""
        if self.times == "uniform":
            sigma = jax.random.uniform(key, shape, jnp.float32)
        else:
            normal = jax.random.normal(key, shape, jnp.float32)
            sigma = jax.nn.sigmoid(self.mean + self.std * normal)
        return flow.shift_sigma(sigma, self.shift)

    def drop_captions(self, batch: Batch, key: PRNGKey) -> Mapping[str, Any]:
        """Returns "cond", each clip's replaced by "null_cond" with `caption_dropout`."""
        if not self.caption_dropout or not batch["cond"]:
            return batch["cond"]
        if "null_cond" not in batch:
            raise UserError("caption_dropout > 0 needs 'null_cond' in the batch")
        drop = jax.random.bernoulli(key, self.caption_dropout, batch["latents"].shape[:1])

        def choose(null, cond):
            return jnp.where(drop.reshape(drop.shape + (1,) * (cond.ndim - 1)), null, cond)

        return jax.tree.map(choose, batch["null_cond"], batch["cond"])


def velocity_error(
    model: nnx.Module,
    data: Latents,
    noise: Latents,
    sigma: Float[Array, "B #T"],
    cond: Mapping[str, Any],
) -> Float[Array, " B"]:
    """Returns each clip's mean squared velocity error (float32) at its noise level(s)."""
    predicted = model(flow.interpolate(data, noise, sigma), flow.timestep(sigma), **cond)
    residual = predicted.astype(jnp.float32) - flow.velocity(data, noise)
    return jnp.mean(jnp.square(residual), axis=(1, 2, 3, 4))


def time_metrics(
    error: Float[Array, " B"], sigma: Float[Array, " B"]
) -> dict[str, Float[Array, ""]]:
    """Returns sums over clips: "mse", and "mse_qN" with its count for each quarter of [0, 1]."""
    metrics = {"mse": error.sum()}
    bins = jnp.minimum((sigma * BINS).astype(jnp.int32), BINS - 1)
    for index in range(BINS):
        inside = bins == index
        metrics[f"mse_q{index}"] = jnp.where(inside, error, 0.0).sum()
        metrics[f"mse_q{index}{COUNT}"] = inside.astype(jnp.float32).sum()
    return metrics
