"""Training adapters: the model that such a run trains."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from skyreels_jax.cli.recipes.base import Recipe
from skyreels_jax.cli.recipes.start import check_start, started
from skyreels_jax.core.errors import UserError
from skyreels_jax.core.rng import stream
from skyreels_jax.core.types import Params
from skyreels_jax.nn.lora import add_adapters
from skyreels_jax.pipelines import load
from skyreels_jax.pipelines.lora import PART
from skyreels_jax.training.config import TrainConfig


def check_lora(recipe: Recipe, config: TrainConfig) -> TrainConfig:
    """Returns `config` with the `base` of its adapters, if it has any.

    Raises `UserError` for adapters upon nothing, upon another model than `base`, or that this model
    cannot have. Reads no weights.
    """
    if config.lora is None:
        return config
    if not config.start:
        raise UserError(
            "lora: adapters are trained upon a model: name it (start), such as 'tiny' or the "
            "folder of a run"
        )
    check_start(config.start)
    adapted_shapes(recipe, config)
    base = load.find(config.start).fingerprint
    if config.lora.base not in ("", base):
        raise UserError(f"lora.base: {config.start} is {base}, not {config.lora.base}")
    return dataclasses.replace(config, lora=dataclasses.replace(config.lora, base=base))


def adapted_shapes(recipe: Recipe, config: TrainConfig) -> tuple[nnx.GraphDef, Params, Any]:
    """Returns the structure of a model with adapters, their shapes, and those of its weights."""

    def make() -> tuple[nnx.GraphDef, Params, Any]:
        model = _with_adapters(config, recipe.make(config, nnx.Rngs(0)))
        graphdef, params, rest = nnx.split(model, nnx.Param, ...)
        return graphdef, nnx.to_pure_dict(params), rest

    return nnx.eval_shape(make)


def adapted(recipe: Recipe, config: TrainConfig) -> tuple[Params, Any]:
    """Returns new adapters, which change nothing yet, of the model at `config.start`, and its
    weights, which are fixed.

    These are held once, in the type that is computed in. Raises `UserError` as `started` does.
    """
    graphdef, state = nnx.split(nnx.eval_shape(lambda: recipe.make(config, nnx.Rngs(0))))
    weights = started(config.start, nnx.to_pure_dict(state), fps=config.data.fps)
    weights = jax.tree.map(lambda leaf: jnp.asarray(leaf, config.compute_dtype), weights)
    model = _with_adapters(config, nnx.merge(graphdef, weights))
    _, params, rest = nnx.split(model, nnx.Param, ...)
    # Restored arrays are committed to their device, drawn ones are not; after the first step all
    # would be, and the step be compiled again.
    return jax.device_put((nnx.to_pure_dict(params), rest), jax.local_devices()[0])


def _with_adapters(config: TrainConfig, model: nnx.Module) -> nnx.Module:
    lora, rngs = config.lora, nnx.Rngs(params=stream(config.seed, "lora"))
    shape = {"rank": lora.rank, "alpha": lora.alpha}
    add_adapters(model, lora.targets, **shape, within=f"{PART}/", rngs=rngs)
    return model
