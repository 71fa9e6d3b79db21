"""What all velocity losses share: captions are dropped, clips noised, errors summed and sorted."""

import abc
import dataclasses
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from skyreels_jax.core.errors import UserError
from skyreels_jax.core.rng import stream
from skyreels_jax.core.types import Batch, Latents, PRNGKey
from skyreels_jax.diffusion import flow
from skyreels_jax.objectives.base import COUNT, LossOutput

BINS = 4


class NoiseLevels(NamedTuple):
    """How noisy the frames of a batch are made.

    sigma: in [0, 1], one level per clip or per latent frame.
    counted: the frames whose error is part of the loss.
    sorts: clips by name of what was drawn for them, for the metrics.
    """

    sigma: Float[Array, "B #T"]
    counted: Bool[Array, "B #T"]
    sorts: dict[str, Bool[Array, " B"]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class VelocityObjective(abc.ABC):
    """Squared velocity error at random noise levels, averaged over the counted latent frames.

    batch: {"latents": [B, T, H, W, C] normalised, "cond": dict of per-sample arrays that the model
      takes as keywords, "null_cond": the same dict for the empty caption (for caption dropout),
      whose arrays may have a single row for all samples}.
    The unit of total and weight is a clip: a clip of which 6 of 9 frames count weighs 2/3.
    Metrics: "mse", "mse_q0".."mse_q3" over the frames with sigma in that quarter of [0, 1], and
    "mse_" + name for each of the sorts of clips.

    times: base density of sigma; "logit_normal" is sigmoid(mean + std * normal), "uniform" U(0, 1).
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

    @abc.abstractmethod
    def draw_levels(self, key: PRNGKey, batch: Batch) -> NoiseLevels:
        """Returns the noise levels of a batch."""

    def __call__(
        self, model: nnx.Module, batch: Batch, key: PRNGKey, *, frozen: Any = None
    ) -> LossOutput:
        del frozen
        data = batch["latents"].astype(jnp.float32)
        cond = self.drop_captions(batch, stream(key, "caption_dropout"))
        levels = self.draw_levels(stream(key, "sigma"), batch)
        noise = jax.random.normal(stream(key, "noise"), data.shape, jnp.float32)
        error = velocity_error(model, data, noise, levels.sigma, cond)
        counted = jnp.broadcast_to(levels.counted, error.shape).astype(jnp.float32)
        sums = {"mse": (error * counted).sum()}
        sums |= time_metrics(error, jnp.broadcast_to(levels.sigma, error.shape), counted)
        for name, clips in levels.sorts.items():
            sums |= mean_over(f"mse_{name}", error, counted * clips[:, None])
        frames = data.shape[1]
        metrics = {name: value / frames for name, value in sums.items()}
        return LossOutput(metrics["mse"], counted.sum() / frames, metrics)

    def quantile(self, u: Float[Array, "..."]) -> Float[Array, "..."]:
        """Returns the sigma below which the share `u` of the base density, shifted, lies."""
        if self.times == "logit_normal":
            u = jax.nn.sigmoid(self.mean + self.std * jax.scipy.special.ndtri(u))
        return flow.shift_sigma(u, self.shift)

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
) -> Float[Array, "B T"]:
    """Returns each frame's mean squared velocity error (float32) at its noise level."""
    predicted = model(flow.interpolate(data, noise, sigma), flow.timestep(sigma), **cond)
    residual = predicted.astype(jnp.float32) - flow.velocity(data, noise)
    return jnp.mean(jnp.square(residual), axis=(2, 3, 4))


def time_metrics(
    error: Float[Array, "B T"], sigma: Float[Array, "B T"], counted: Float[Array, "B T"]
) -> dict[str, Float[Array, ""]]:
    """Returns sums over the counted frames, "mse_qN" and its count, per quarter of [0, 1]."""
    bins = jnp.minimum((sigma * BINS).astype(jnp.int32), BINS - 1)
    parts = [mean_over(f"mse_q{i}", error, counted * (bins == i)) for i in range(BINS)]
    return {name: value for part in parts for name, value in part.items()}


def mean_over(
    name: str, error: Float[Array, "B T"], weight: Float[Array, "B T"]
) -> dict[str, Float[Array, ""]]:
    """Returns the pair of sums of which `report` makes the weighted mean."""
    return {name: (error * weight).sum(), name + COUNT: weight.sum()}
