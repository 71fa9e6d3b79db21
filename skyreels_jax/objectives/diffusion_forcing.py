"""Diffusion forcing: the velocity loss with a noise level of its own for every latent frame."""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from skyreels_jax.core.errors import UserError
from skyreels_jax.core.rng import stream
from skyreels_jax.core.types import Batch, PRNGKey
from skyreels_jax.diffusion.fopp import blocks, draw, draw_continuous
from skyreels_jax.objectives.velocity import NoiseLevels, VelocityObjective

MIXTURE = ("fopp", "prefix", "equal")
FOPP, PREFIX, EQUAL = range(len(MIXTURE))
NOISY_PREFIXES = 0.5  # share of the prefixes that are not quite clean


@dataclasses.dataclass(frozen=True, kw_only=True)
class DiffusionForcing(VelocityObjective):
    """Every clip is one of three sorts, drawn with the weights `fopp`, `prefix` and `equal`:

    fopp: times that never fall from first to last frame, from the FoPP scheduler;
    prefix: one time for all frames behind a prefix of random length that is (nearly) clean, which
      is what sampling shows while a film is continued;
    equal: one time for all frames, which is what sampling shows while it makes a first window.
    FoPP alone hardly ever shows the last two (SkyReels-V2 does not state its mixture).

    Times are uniform numbers at first; the base density and its shift come after, frame by frame.
    The frames of a prefix are conditions: sampling never moves them, their error is not counted.
    batch: as for all velocity objectives, and "start" [B], the latent frame of the film with which
      the clip begins. A clip that begins later than its film always has a clean prefix, whatever
      its sort: sampling never shows it another way, and pure noise does not tell the two apart.
      "given" [B]: how many latents that prefix has, rounded up to whole blocks; 0: any number.

    prefix_noise: half of the prefixes have one sigma from U(0, prefix_noise), as with
      `addnoise_condition` in sampling; the others are clean.
    causal_block_size: latent frames that share a time; prefixes are whole blocks.
    timesteps: number of FoPP's times (the paper has 1000); 0 takes its continuous form.
    Metrics: also "mse_fopp", "mse_prefix" and "mse_equal"; clips given a prefix are of the second.
    Raises `UserError` for values that make no sense, and for clips of a single block.
    """

    name: Literal["diffusion_forcing"] = "diffusion_forcing"
    fopp: float = 0.5
    prefix: float = 0.3
    equal: float = 0.2
    prefix_noise: float = 0.05
    causal_block_size: int = 1
    timesteps: int = 1000

    def __post_init__(self):
        super().__post_init__()
        weights = [getattr(self, name) for name in MIXTURE]
        if min(weights) < 0 or not sum(weights) > 0:
            raise UserError(f"{', '.join(MIXTURE)} are weights, 0 or more, not all 0: {weights}")
        if not 0 <= self.prefix_noise < 1:
            raise UserError(f"prefix_noise is a sigma in [0, 1), got {self.prefix_noise}")
        if self.causal_block_size < 1 or self.timesteps < 0:
            raise UserError(
                "causal_block_size must be at least 1 and timesteps positive, or 0 for continuous "
                f"times; got {self.causal_block_size}, {self.timesteps}"
            )

    def draw_levels(self, key: PRNGKey, batch: Batch) -> NoiseLevels:
        clips, frames = batch["latents"].shape[:2]
        if blocks(frames, self.causal_block_size) < 2:
            raise UserError(
                f"diffusion forcing needs two causal blocks or more; these clips have {frames} "
                f"latent frames and causal_block_size is {self.causal_block_size}"
            )
        weights = jnp.asarray([getattr(self, name) for name in MIXTURE], jnp.float32)
        sort = jax.random.choice(stream(key, "sort"), len(MIXTURE), (clips,), p=weights)
        together = jax.random.uniform(stream(key, "equal"), (clips, 1), jnp.float32)
        staggered = self._draw_fopp(stream(key, "fopp"), clips, frames)
        sigma = self.quantile(jnp.where(sort[:, None] == FOPP, staggered, together))
        given = (sort == PREFIX) | (batch["start"] > 0) | (batch["given"] > 0)
        prefix = self._draw_prefix(stream(key, "prefix"), frames, batch["given"])
        inside = given[:, None] & prefix
        level, noisy = jax.random.uniform(stream(key, "prefix_noise"), (2, clips, 1), jnp.float32)
        level = jnp.where(noisy < NOISY_PREFIXES, level * self.prefix_noise, 0.0)
        sorts = {
            "fopp": (sort == FOPP) & ~given,
            "prefix": given,
            "equal": (sort == EQUAL) & ~given,
        }
        return NoiseLevels(jnp.where(inside, level, sigma), ~inside, sorts)

    def _draw_fopp(self, key: PRNGKey, clips: int, frames: int) -> Float[Array, "clips frames"]:
        options = {"clips": clips, "frames": frames, "block": self.causal_block_size}
        if not self.timesteps:
            return draw_continuous(key, **options)
        times = draw(key, timesteps=self.timesteps, **options)
        return (times.astype(jnp.float32) + 0.5) / self.timesteps  # none is clean

    def _draw_prefix(
        self, key: PRNGKey, frames: int, given: Int[Array, " B"]
    ) -> Bool[Array, "B {frames}"]:
        """Returns the frames of prefixes of one block to all but one, each as likely; of as many
        as are `given`, where any are."""
        size = self.causal_block_size
        length = jax.random.randint(key, given.shape, 1, blocks(frames, size))
        length = jnp.where(given > 0, -(-given // size), length)
        return jnp.arange(frames)[None] < length[:, None] * size
