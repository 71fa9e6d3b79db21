"""Flow-DPO: of two films for one prompt the better one is to gain more on a reference model."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from skyreels_jax.core.errors import UserError
from skyreels_jax.core.rng import stream
from skyreels_jax.core.types import Batch, Latents, PRNGKey, Time
from skyreels_jax.diffusion import flow
from skyreels_jax.objectives.base import LossOutput
from skyreels_jax.objectives.diffusion_forcing import DiffusionForcing
from skyreels_jax.objectives.flow_matching import FlowMatching

TIE = 1e-6  # of the errors: below it a margin is their rounding
METRICS = ("implicit_accuracy", "margin", "reward_chosen", "reward_rejected")
METRICS += ("mse_chosen", "mse_rejected", "drift")


class Sides(NamedTuple):
    """Both films of every pair on top of each other, chosen first, noised alike.

    x, timestep, cond: what a model is given; velocity: what it should say.
    weight: of each latent frame in the mean over its film.
    """

    x: Latents
    timestep: Time
    cond: Mapping[str, Any]
    velocity: Latents
    weight: Float[Array, "B T"]

    def mean(self, squares: Latents) -> Float[Array, "2 P"]:
        """Returns the mean over the counted frames of each film, of P chosen and of P rejected."""
        films = jnp.sum(jnp.mean(squares, axis=(2, 3, 4)) * self.weight, axis=1)
        return films.reshape(2, -1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class FlowDPO:
    """-log sigmoid(r_chosen - r_rejected), r = beta / 2 (e_reference - e_model), a mean over pairs.

    e is the squared error of the velocity at one noise level, a mean over one film. Both sides of a
    pair have the same noise, times and caption (or both the empty one), and beta is the same at all
    times: weighted by (1 - sigma)^2 the reward is hacked (Liu et al. 2025, "Improving Video
    Generation with Human Feedback", Flow-DPO; SkyReels-V2, arXiv 2504.13074, section on RL).

    batch: {"chosen", "rejected": [B, T, H, W, C] normalised; all else as `velocity` wants it}.
    frozen: the reference's parameters, a tree like the model's own. They take their places in the
      model; all that is no parameter is shared. So where the parameters are adapters upon fixed
      weights (`lora` in a config), those are held once, and the reference is a tree of small
      matrices; where whole models are trained, it is a second set of all weights.
    velocity: whose times, counted frames and caption dropout those of a pair are.
    Metrics, `METRICS`: "implicit_accuracy" (share of pairs whose margin is positive; ties count
      half), "margin", "reward_chosen", "reward_rejected", "mse_chosen", "mse_rejected" (of the
      model) and "drift" (squared distance of the model's velocity from the reference's).
    Raises `UserError` for a beta that is not positive, or not finite.
    """

    name: Literal["flow_dpo"] = "flow_dpo"
    beta: float = 100.0
    velocity: FlowMatching | DiffusionForcing = dataclasses.field(default_factory=FlowMatching)

    def __post_init__(self):
        if not 0 < self.beta < math.inf:
            raise UserError(f"objective.beta must be more than 0 and finite, got {self.beta:g}")

    def __call__(
        self, model: nnx.Module, batch: Batch, key: PRNGKey, *, frozen: Any = None
    ) -> LossOutput:
        if frozen is None:
            raise ValueError("FlowDPO needs the reference's parameters as `frozen`")
        graphdef, _, rest = nnx.split(model, nnx.Param, ...)
        sides = self.sides(batch, key)
        learned, known = (
            m(sides.x, sides.timestep, **sides.cond).astype(jnp.float32)
            for m in (model, nnx.merge(graphdef, frozen, rest))
        )
        error, before = (sides.mean(jnp.square(v - sides.velocity)) for v in (learned, known))
        reward = self.beta / 2 * (before - error)
        margin = reward[0] - reward[1]
        resolution = TIE * self.beta / 2 * jnp.sum(before + error, axis=0)
        metrics = {
            "implicit_accuracy": jnp.where(jnp.abs(margin) <= resolution, 0.5, margin > 0),
            "margin": margin,
            "reward_chosen": reward[0],
            "reward_rejected": reward[1],
            "mse_chosen": error[0],
            "mse_rejected": error[1],
            "drift": jnp.mean(sides.mean(jnp.square(learned - known)), axis=0),
        }
        loss = jax.nn.softplus(-margin)
        sums = {name: value.sum() for name, value in metrics.items()}
        return LossOutput(loss.sum(), jnp.float32(loss.size), sums)

    def sides(self, batch: Batch, key: PRNGKey) -> Sides:
        """Returns what the models are shown; the streams are those of the velocity objectives."""
        one = {**batch, "latents": batch["chosen"].astype(jnp.float32)}
        cond = self.velocity.drop_captions(one, stream(key, "caption_dropout"))
        levels = self.velocity.draw_levels(stream(key, "sigma"), one)
        noise = jax.random.normal(stream(key, "noise"), one["latents"].shape, jnp.float32)
        counted = jnp.broadcast_to(levels.counted, noise.shape[:2]).astype(jnp.float32)
        weight = counted / counted.sum(axis=1, keepdims=True)
        noise, sigma, weight, cond = jax.tree.map(
            lambda leaf: jnp.concatenate([leaf, leaf]), (noise, levels.sigma, weight, dict(cond))
        )
        data = jnp.concatenate([one["latents"], batch["rejected"].astype(jnp.float32)])
        return Sides(
            x=flow.interpolate(data, noise, sigma),
            timestep=flow.timestep(sigma),
            cond=cond,
            velocity=flow.velocity(data, noise),
            weight=weight,
        )
