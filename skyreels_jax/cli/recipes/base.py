"""The protocol of a recipe, and the recipe of a kind."""

import pathlib
from typing import Any, Protocol, runtime_checkable

from flax import nnx
from jax.sharding import Mesh

from skyreels_jax.core.types import Params
from skyreels_jax.parallel.rules import Rules
from skyreels_jax.training.config import TrainConfig
from skyreels_jax.training.loop import Loader
from skyreels_jax.training.meter import Flops


@runtime_checkable
class Recipe(Protocol):
    """A kind of training run."""

    def resolve(self, config: TrainConfig) -> TrainConfig:
        """Returns `config` with `model` and `objective` as dataclasses.

        Raises `UserError` on unknown keys.
        """
        ...

    def make(self, config: TrainConfig, rngs: nnx.Rngs, *, mesh: Mesh | None = None) -> nnx.Module:
        """Returns the model with its first parameters, for the devices of `mesh`."""
        ...

    def rules(self, config: TrainConfig) -> Rules:
        """Returns over which mesh axes each parameter of the model goes."""
        ...

    def loader(self, config: TrainConfig) -> Loader:
        """Prepares the data and returns what opens a stage's batches."""
        ...

    def flops(self, config: TrainConfig, params: Params) -> Flops | None:
        """Returns what counts the operations of a step on a batch; None: there is no formula."""
        ...

    def export(self, config: TrainConfig, folder: pathlib.Path, dtype: str) -> None:
        """Writes the newest checkpoint of the run in `config.out` as others read it (diffusers
        form) into the empty `folder`: averaged parameters if the run kept them.
        """
        ...


def config_class(kind: Any) -> type[TrainConfig]:
    """Returns the dataclass of a config file of this `kind`, known or not."""
    if kind == "flow_dpo":
        from skyreels_jax.training.preferences import FlowDPOConfig

        return FlowDPOConfig
    return TrainConfig


def recipe_for(kind: str) -> Recipe:
    """Returns the recipe of a config's `kind`."""
    if kind == "flow_dpo":
        from skyreels_jax.cli.recipes.flow_dpo import FlowDPORecipe

        return FlowDPORecipe()
    if kind == "vae":
        from skyreels_jax.cli.recipes.vae import VAERecipe

        return VAERecipe()
    if kind == "reward":
        from skyreels_jax.cli.recipes.reward import RewardRecipe

        return RewardRecipe()
    from skyreels_jax.cli.recipes.text_to_video import TextToVideoRecipe

    return TextToVideoRecipe()
