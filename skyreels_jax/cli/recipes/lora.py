"""Training adapters: what they need, where they are, and the weights below them."""

import dataclasses
import re
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import PartitionSpec

from skyreels_jax.cli.recipes.base import Recipe
from skyreels_jax.cli.recipes.model import split
from skyreels_jax.cli.recipes.start import check_start, started
from skyreels_jax.core.errors import UserError
from skyreels_jax.core.tree import cast, named_leaves
from skyreels_jax.core.types import Params
from skyreels_jax.models.kinds import in_float32
from skyreels_jax.parallel.rules import Rules, specs
from skyreels_jax.pipelines import load
from skyreels_jax.training.config import TrainConfig

ADAPTER = re.compile(r"(.*)/adapter/(down|up)/kernel")


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
    nnx.eval_shape(lambda: split(recipe, config))
    base = load.find(config.start).fingerprint
    if config.lora.base not in ("", base):
        raise UserError(f"lora.base: {config.start} is {base}, not {config.lora.base}")
    return dataclasses.replace(config, lora=dataclasses.replace(config.lora, base=base))


def adapter_rules(rules: Rules, weights: Params, adapters: Params) -> Rules:
    """Returns rules of adapters by those of the weights below them: of the two products, the first
    is divided by what goes in, the second by what comes out, and the rank not at all.
    """
    kernels = dict(named_leaves(weights))
    over = dict(named_leaves(specs(weights, rules)))

    def one(name: str) -> tuple[str, PartitionSpec]:
        layer, side = ADAPTER.fullmatch(name).groups()
        kernel = f"{layer}/kernel"
        axes = [*over[kernel], *[None] * (kernels[kernel].ndim - len(over[kernel]))]
        *depth, fan_in, fan_out = axes
        return re.escape(name), PartitionSpec(
            *depth, *((fan_in, None) if side == "down" else (None, fan_out))
        )

    return tuple(one(name) for name, _ in named_leaves(adapters))


def fixed_weights(config: TrainConfig, like: Any) -> Any:
    """Returns the weights at `config.start`, in the type that is computed in, like `like` (the
    third of `split`, abstract, and placed where that says), but for what stays float32. They are
    held once.

    Raises `UserError` as `started` does.
    """
    weights = started(config.start, nnx.to_pure_dict(like), fps=config.data.fps)
    weights = cast(weights, jnp.dtype(config.compute_dtype), kept=in_float32)
    return jax.tree.unflatten(jax.tree.structure(like), jax.tree.leaves(weights))
