"""The model of a run in its parts: real, or as shapes with places."""

import dataclasses
from typing import Any

import jax
from flax import nnx
from jax.sharding import Mesh

from skyreels_jax.cli.recipes.base import Recipe
from skyreels_jax.core.rng import stream
from skyreels_jax.core.types import Params
from skyreels_jax.nn.lora import add_adapters
from skyreels_jax.parallel.placement import Placement, abstract
from skyreels_jax.pipelines.lora import PART
from skyreels_jax.training.config import TrainConfig


def split(
    recipe: Recipe, config: TrainConfig, mesh: Mesh | None = None
) -> tuple[nnx.GraphDef, Params, Any]:
    """Returns the structure of the model of a run, its parameters, and all that is none: with
    `config.lora`, adapters, which change nothing yet, and the weights below them.
    """
    model = recipe.make(config, nnx.Rngs(config.seed), mesh=mesh)
    if (lora := config.lora) is not None:
        said = {"rank": lora.rank, "alpha": lora.alpha, "within": f"{PART}/"}
        add_adapters(model, lora.targets, **said, rngs=nnx.Rngs(params=stream(config.seed, "lora")))
    graphdef, params, rest = nnx.split(model, nnx.Param, ...)
    return graphdef, nnx.to_pure_dict(params), rest


def abstract_weights(recipe: Recipe, config: TrainConfig) -> Params:
    """Returns the shapes and types of the weights of the model of a run, without adapters."""
    plain = dataclasses.replace(config, lora=None)
    return jax.eval_shape(lambda: split(recipe, plain)[1])


def abstract_model(
    recipe: Recipe, config: TrainConfig, placement: Placement | None
) -> tuple[nnx.GraphDef, Params, Any]:
    """Returns what `split` does, abstract, each array with its place."""
    if placement is None:
        return nnx.eval_shape(lambda: split(recipe, config))
    graphdef, params, rest = nnx.eval_shape(lambda: split(recipe, config, placement.mesh))
    where = jax.tree.leaves(placement.rest(nnx.to_pure_dict(rest)))
    rest = abstract(rest, jax.tree.unflatten(jax.tree.structure(rest), where))
    return graphdef, abstract(params, placement.params(params)), rest
