"""The optimiser: Muon for matrices, Adam for the rest, frozen parameters left alone."""

import re
from collections.abc import Callable
from typing import Any

import jax
import optax
from optax import contrib

from skyreels_jax.core.errors import UserError
from skyreels_jax.core.tree import named_leaves, path_name
from skyreels_jax.core.types import Params
from skyreels_jax.training.config import OptimizerConfig


def schedule(config: OptimizerConfig, total_steps: int) -> optax.Schedule:
    """Returns step -> scale in [0, 1]: linear warm-up, constant, then down to `final_scale` at
    `total_steps`.
    """
    begin = max(int(config.decay_start * total_steps), config.warmup_steps)
    length = max(total_steps - begin, 1)
    if config.decay == "cosine":
        down = optax.cosine_decay_schedule(1.0, length, alpha=config.final_scale)
    else:
        down = optax.linear_schedule(1.0, config.final_scale, length)
    if not config.warmup_steps:
        return optax.join_schedules([optax.constant_schedule(1.0), down], [begin])
    warmup = optax.linear_schedule(1 / config.warmup_steps, 1.0, config.warmup_steps)
    return optax.join_schedules(
        [warmup, optax.constant_schedule(1.0), down], [config.warmup_steps, begin]
    )


def is_trained(config: OptimizerConfig) -> Callable[[str], bool]:
    """Returns the predicate over parameter paths: does this run train it?"""
    patterns = [re.compile(p) for p in config.frozen]
    return lambda name: not any(p.fullmatch(name) for p in patterns)


def muon_axes(config: OptimizerConfig, params: Params) -> Any:
    """Returns, leaf by leaf, the axes that Muon takes for a matrix's two, or None where Adam
    trains.

    Kernels only. [in, out] is a matrix; [depth, in, out] a stack of them, each treated by itself;
    convolutions [kh, kw, in, out] and [kt, kh, kw, in, out] count as one matrix of all their inputs
    by their outputs.
    """

    def axes(path, leaf):
        name = path_name(path)
        kernel = name.rsplit("/", 1)[-1] == "kernel" and leaf.ndim >= 2
        if not kernel or any(re.fullmatch(p, name) for p in config.adam_paths):
            return None
        inputs = (leaf.ndim - 2,) if leaf.ndim <= 3 else tuple(range(leaf.ndim - 1))
        return contrib.MuonDimensionNumbers(inputs, (leaf.ndim - 1,))

    return jax.tree_util.tree_map_with_path(axes, params)


def make_optimizer(
    config: OptimizerConfig, params: Params, total_steps: int, *, fixed: Params = ()
) -> optax.GradientTransformation:
    """Returns the optimiser of `params` (arrays or abstract arrays) for a run of `total_steps`.

    fixed: the weights that are no parameters in this run. Patterns may name them as well, so that
    adapters can be trained by the config of a whole model.
    Raises `UserError` when a pattern of `adam_paths` or `frozen` matches neither.
    """
    names = [name for tree in (params, fixed) for name, _ in named_leaves(tree)]
    for pattern in (*config.adam_paths, *config.frozen):
        if not any(re.fullmatch(pattern, name) for name in names):
            raise UserError(f"optimizer: pattern {pattern!r} matches no parameter path")
    scale = schedule(config, total_steps)

    def rate(peak: float) -> optax.Schedule:
        return lambda step: peak * scale(step)

    if config.name == "muon":
        tx = contrib.muon(
            rate(config.learning_rate),
            ns_coeffs=config.muon_coefficients,
            ns_steps=config.muon_iterations,
            beta=config.muon_beta,
            weight_decay=config.weight_decay,
            adam_b1=config.adam_b1,
            adam_b2=config.adam_b2,
            adam_learning_rate=rate(config.adam_learning_rate),
            muon_weight_dimension_numbers=lambda tree: muon_axes(config, tree),
            consistent_rms=config.muon_rms,
        )
    else:
        tx = optax.adamw(
            rate(config.adam_learning_rate),
            b1=config.adam_b1,
            b2=config.adam_b2,
            weight_decay=config.weight_decay,
        )
    if config.clip_norm:
        tx = optax.chain(optax.clip_by_global_norm(config.clip_norm), tx)
    if config.frozen:
        trained = is_trained(config)
        labels = jax.tree_util.tree_map_with_path(
            lambda path, _: "trained" if trained(path_name(path)) else "frozen", params
        )
        tx = optax.partition({"trained": tx, "frozen": optax.set_to_zero()}, labels)
    return tx
