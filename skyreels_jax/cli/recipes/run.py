"""From a recipe and a resolved config to a finished run and its export."""

import dataclasses
import pathlib
import shutil
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from skyreels_jax.checkpoint import Checkpoints, check_room, restore_params
from skyreels_jax.cli.recipes.base import Recipe
from skyreels_jax.cli.recipes.checks import check_heads
from skyreels_jax.cli.recipes.features import with_multiple
from skyreels_jax.cli.recipes.lora import adapter_rules, check_lora, fixed_weights
from skyreels_jax.cli.recipes.model import abstract_model, abstract_weights, split
from skyreels_jax.cli.recipes.samples import film_sampler
from skyreels_jax.cli.recipes.start import check_model, settled, started
from skyreels_jax.core.errors import UserError
from skyreels_jax.core.files import check_writable
from skyreels_jax.core.run_folder import is_run
from skyreels_jax.core.tree import count_parameters
from skyreels_jax.core.types import Params
from skyreels_jax.models.kinds import in_float32
from skyreels_jax.parallel import hosts
from skyreels_jax.parallel.mesh import make_mesh
from skyreels_jax.parallel.placement import Placement
from skyreels_jax.pipelines.cache import enable_compilation_cache
from skyreels_jax.training import resume
from skyreels_jax.training.config import ADAPTED, TrainConfig
from skyreels_jax.training.loop import fit
from skyreels_jax.training.optimizer import is_trained, make_optimizer
from skyreels_jax.training.plateau import Plateau
from skyreels_jax.training.state import TrainState, abstract_state, init_state
from skyreels_jax.training.step import TrainStep, make_train_step
from skyreels_jax.training.writers import check_writers


def train(
    recipe: Recipe,
    config: TrainConfig,
    *,
    reference: bool = False,
    adapters: str | None = None,
    until: Plateau | None = None,
) -> bool:
    """Runs or continues the training that `config` describes; returns whether it is finished.

    reference: whether the objective is given the parameters that it started with, as `frozen`.
    Whatever can be refused, such as checkpoints that would find no room on disk, is refused before
    data are prepared and anything is compiled. A run that goes on needs its `start` no more, unless
    for its reference or for what is below its adapters.
    adapters: with `config.lora`, the folder of a run whose adapters this one begins with; None: it
    begins with new ones.
    until: what ends it before its last step.
    """
    check_writers(config.writers)
    enable_compilation_cache()
    folder = pathlib.Path(config.out)
    config = check_lora(recipe, config)
    placement = placed(recipe, config)
    check_writable(folder)
    graphdef, params, rest = abstract_model(recipe, config, placement)
    config, goes_on = _gone_on(config)
    begun = config
    if config.start and (not goes_on or reference or config.lora is not None):
        begun = dataclasses.replace(config, start=settled(config.start))
        under = params if config.lora is None else nnx.to_pure_dict(rest)
        check_model(begun.start, under, fps=config.data.fps)
    upon = "" if config.lora is None else f" of adapters upon {count_parameters(rest):,}"
    count = f"{count_parameters(params):,} parameters{upon}"
    print(f"{config.kind}: {count}, {config.total_steps} steps")
    step, tx = make_step(config, graphdef, params, fixed=nnx.to_pure_dict(rest))
    mirrored = {"ema": bool(config.ema_decay), "placement": placement}
    like = abstract_state(params, tx, **mirrored)
    check_room(folder / "checkpoints", like, config.checkpoints)
    options = {"folder": folder, "until": until, "placement": placement}
    options |= {"flops": recipe.flops(config, params), "config": config}
    options["sample"] = film_sampler(begun) if config.sample_every else None
    with hosts.in_turn("data"):  # hours; what was wrong has been said
        options["loader"] = recipe.loader(config)
    first, rest = _begun(recipe, begun, (params, rest), adapters, placement)
    frozen = jax.device_put(first()) if reference else None

    def begin() -> TrainState:
        return init_state(first() if frozen is None else frozen, tx, **mirrored)

    return fit(step, like, begin, rest=rest, frozen=frozen, **options).finished


def make_step(
    config: TrainConfig, graphdef: nnx.GraphDef, params: Params, *, fixed: Params
) -> tuple[TrainStep, optax.GradientTransformation]:
    """Returns the step of a run and its optimiser, of parameters that may be abstract.

    fixed: as in `make_optimizer`.
    """
    tx = make_optimizer(config.optimizer, params, config.total_steps, fixed=fixed)
    whole = config.compute_dtype == "float32"
    step = make_train_step(
        config.objective,
        tx,
        graphdef,
        seed=config.seed,
        ema_decay=config.ema_decay or None,
        accumulate=config.accumulate,
        compute_dtype=None if whole else jnp.dtype(config.compute_dtype),
        kept=in_float32 if config.kind in ADAPTED else lambda path: False,
        trained=is_trained(config.optimizer),
    )
    return step, tx


def placed(recipe: Recipe, config: TrainConfig) -> Placement | None:
    """Returns over which devices a run goes; None: one.

    Raises `UserError` for a mesh that does not fit devices, batches or weights.
    """
    if config.mesh is None:
        if (count := jax.process_count()) > 1:
            raise UserError(
                f"--hosts: {count} processes train as one, on a mesh; "
                "--set mesh.fsdp=-1 divides the work among all of their devices"
            )
        if (count := len(jax.devices())) > 1:
            print(f"trains on 1 of {count} devices; --set mesh.fsdp=-1 uses them all")
        return None
    mesh, rules = make_mesh(config.mesh), recipe.rules(config)
    if config.kind in ADAPTED:
        check_heads(config, mesh.shape)
    weights = abstract_weights(recipe, config)
    placement = Placement(mesh=mesh, rules=rules)
    placement.params(weights)
    for stage in config.stages:
        placement.rows(stage.batch // config.accumulate)
    if config.lora is None:
        return placement
    adapters = nnx.eval_shape(lambda: split(recipe, config)[1])
    placement = Placement(mesh=mesh, rules=adapter_rules(rules, weights, adapters), fixed=rules)
    placement.params(adapters)
    return placement


def _gone_on(config: TrainConfig) -> tuple[TrainConfig, bool]:
    """Returns `config` with what its run decides as it begins, and whether there is a checkpoint of
    the run; raises as `resume.changes`.
    """
    saved = None
    with Checkpoints(pathlib.Path(config.out) / "checkpoints") as checkpoints:
        if (step := hosts.agreed(checkpoints.latest())) is not None:
            saved = checkpoints.config(step)
    if config.kind == "text_to_video" and config.data.features:
        config = with_multiple(config, saved)
    if saved is not None:
        resume.changes(saved, config, step)
    return config, saved is not None


def _begun(
    recipe: Recipe,
    config: TrainConfig,
    like: tuple[Params, Any],
    adapters: str | None,
    placement: Placement | None,
) -> tuple[Callable[[], Params], Any]:
    """Returns what makes the first parameters of a run, which one that goes on does not need, and
    all of its model that is none.

    like: both, as `abstract_model` returns them.
    """
    mesh, (params, rest) = None if placement is None else placement.mesh, like

    def drawn(part: int, like: Any) -> Any:  # each device makes its part
        where = None if mesh is None else jax.tree.map(lambda leaf: leaf.sharding, like)
        return jax.jit(lambda: split(recipe, config, mesh)[part], out_shardings=where)()

    def first() -> Params:
        if config.start and config.lora is None:
            return started(config.start, params, fps=config.data.fps)
        if adapters is not None:
            return restore_params(adapters, params)
        if mesh is None and config.lora is None:
            return split(recipe, config)[1]
        return drawn(1, params)

    if config.lora is None:
        return first, drawn(2, rest)
    if mesh is not None:
        return first, fixed_weights(config, rest)
    # Restored arrays are committed to their device, drawn ones are not; after the first step all
    # would be, and the step be compiled again.
    home = jax.local_devices()[0]
    return lambda: jax.device_put(first(), home), jax.device_put(fixed_weights(config, rest), home)


def export(
    recipe: Recipe, config: TrainConfig, *, dtype: str, to: pathlib.Path | None = None
) -> pathlib.Path:
    """Writes the newest checkpoint's weights in diffusers form; returns the folder.

    They are the averaged ones if the run kept them. Adapters are merged, and written by themselves
    as well (`pipelines.convert.FILE`). The folder, `to`/export or that of the run, is written aside
    and moved into place, by the first of many processes. Raises `UserError` when there is no
    checkpoint.
    """
    out = pathlib.Path(config.out)
    if not is_run(out):
        raise UserError(f"{out} holds no checkpoints to export; train first")
    to = to or out
    partial, final = to / "export.partial", to / "export"
    if hosts.is_first():
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        recipe.export(config, partial, dtype)
        shutil.rmtree(final, ignore_errors=True)
        partial.rename(final)
    hosts.wait("export")
    return final
