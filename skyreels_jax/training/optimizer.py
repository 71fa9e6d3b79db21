"""The optimiser: Muon for matrices, Adam for the rest, and policies for what is to differ."""

from collections.abc import Callable
from typing import Any

import jax
import optax
from optax import contrib

from skyreels_jax.core.errors import UserError
from skyreels_jax.core.tree import named_leaves, path_name
from skyreels_jax.core.types import Params
from skyreels_jax.training.config import OptimizerConfig, PolicyConfig


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
    return lambda name: not config.policy(name).frozen


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
        if not kernel or config.policy(name).adam:
            return None
        inputs = (leaf.ndim - 2,) if leaf.ndim <= 3 else tuple(range(leaf.ndim - 1))
        return contrib.MuonDimensionNumbers(inputs, (leaf.ndim - 1,))

    return jax.tree_util.tree_map_with_path(axes, params)


def make_optimizer(
    config: OptimizerConfig, params: Params, total_steps: int, *, fixed: Params = ()
) -> optax.GradientTransformation:
    """Returns the optimiser of `params` (arrays or abstract arrays) for a run of `total_steps`.

    fixed: the weights that are no parameters in this run. Policies may name them as well, so that
    adapters can be trained by the config of a whole model.
    Raises `UserError` for a policy that is the first match of neither, and where nothing is left to
    be trained.
    """
    _check_policies(config, [name for tree in (params, fixed) for name, _ in named_leaves(tree)])
    trained = [name for name, _ in named_leaves(params) if is_trained(config)(name)]
    if not trained:
        raise UserError("optimizer.policies: every parameter is frozen; leave some to be trained")
    groups = {_group(config, name): config.policy(name) for name in trained}
    parts = {name: _rule(config, policy, total_steps) for name, policy in groups.items()}
    tx = _partition(parts, lambda name: _group(config, name))
    if config.clip_norm:
        tx = optax.chain(optax.clip_by_global_norm(config.clip_norm), tx)
    if any(policy.frozen for policy in config.policies):
        parts = {"trained": tx, "frozen": optax.set_to_zero()}
        tx = _partition(parts, lambda name: "trained" if is_trained(config)(name) else "frozen")
    return tx


def _check_policies(config: OptimizerConfig, names: list[str]) -> None:
    used = {config.policy(name) for name in names}
    for policy in config.policies:
        if policy not in used:
            matched = any(policy.matches(name) for name in names)
            earlier = " but those of policies before it" if matched else ""
            raise UserError(
                f"optimizer.policies: {policy.paths!r} matches no parameter path{earlier}"
            )


def _group(config: OptimizerConfig, name: str) -> str:
    """Returns what parameters with the same numbers have in common."""
    policy = config.policy(name)
    return f"learning_rate {policy.learning_rate} weight_decay {policy.weight_decay}"


def _rule(
    config: OptimizerConfig, policy: PolicyConfig, total_steps: int
) -> optax.GradientTransformation:
    """Returns the optimiser of the parameters with the numbers of `policy`."""
    scale, decay = schedule(config, total_steps), policy.weight_decay

    def rate(peak: float) -> optax.Schedule:
        return lambda step: peak * policy.learning_rate * scale(step)

    if config.name == "adam":
        return optax.adamw(
            rate(config.adam_learning_rate),
            b1=config.adam_b1,
            b2=config.adam_b2,
            weight_decay=config.weight_decay if decay is None else decay,
        )
    return contrib.muon(
        rate(config.learning_rate),
        ns_coeffs=config.muon_coefficients,
        ns_steps=config.muon_iterations,
        beta=config.muon_beta,
        weight_decay=config.weight_decay if decay is None else decay,
        adam_b1=config.adam_b1,
        adam_b2=config.adam_b2,
        adam_weight_decay=decay or 0.0,
        adam_learning_rate=rate(config.adam_learning_rate),
        muon_weight_dimension_numbers=lambda tree: muon_axes(config, tree),
        consistent_rms=config.muon_rms,
    )


def _partition(
    parts: dict[str, optax.GradientTransformation], label: Callable[[str], str]
) -> optax.GradientTransformation:
    """Returns `parts` as one; each has the parameters whose path `label` gives its name."""
    if len(parts) == 1:
        return next(iter(parts.values()))

    def labels(params: Params) -> Any:
        return jax.tree_util.tree_map_with_path(lambda path, _: label(path_name(path)), params)

    return optax.partition(parts, labels)
