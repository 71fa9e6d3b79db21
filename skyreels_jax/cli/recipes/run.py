"""From a recipe and a resolved config to a finished run and its export."""

import pathlib
import shutil
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from skyreels_jax.checkpoint import restore_params
from skyreels_jax.cli.recipes.base import Recipe
from skyreels_jax.cli.recipes.lora import adapted, check_lora, export_adapter
from skyreels_jax.cli.recipes.start import started
from skyreels_jax.core.errors import UserError
from skyreels_jax.core.tree import count_parameters
from skyreels_jax.core.types import Params
from skyreels_jax.parallel.mesh import make_mesh
from skyreels_jax.parallel.placement import Placement
from skyreels_jax.pipelines.cache import enable_compilation_cache
from skyreels_jax.pipelines.run import has_adapters, run_config
from skyreels_jax.training.config import TrainConfig
from skyreels_jax.training.loop import fit
from skyreels_jax.training.optimizer import is_trained, make_optimizer
from skyreels_jax.training.plateau import Plateau
from skyreels_jax.training.state import init_state
from skyreels_jax.training.step import make_train_step


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
    adapters: with `config.lora`, the folder of a run whose adapters this one begins with; None: it
    begins with new ones.
    until: what ends it before its last step.
    """
    enable_compilation_cache()
    folder = pathlib.Path(config.out)
    config = check_lora(recipe, config)
    placement = placed(recipe, config)
    loader = recipe.loader(config)
    graphdef, params, rest = _begun(recipe, config, adapters, placement)
    upon = "" if config.lora is None else f" of adapters upon {count_parameters(rest):,}"
    count = f"{count_parameters(params):,} parameters{upon}"
    print(f"{config.kind}: {count}, {config.total_steps} steps")
    fixed = nnx.to_pure_dict(rest)
    tx = make_optimizer(config.optimizer, params, config.total_steps, fixed=fixed)
    step = make_train_step(
        config.objective,
        tx,
        graphdef,
        seed=config.seed,
        ema_decay=config.ema_decay or None,
        accumulate=config.accumulate,
        compute_dtype=None
        if config.compute_dtype == "float32"
        else jnp.dtype(config.compute_dtype),
        trained=is_trained(config.optimizer) if config.optimizer.frozen else None,
    )
    start = init_state(params, tx, ema=bool(config.ema_decay), placement=placement)
    frozen = jax.device_put(params) if reference else None
    options = {"loader": loader, "folder": folder, "frozen": frozen, "until": until}
    options["placement"] = placement
    return fit(step, start, rest=rest, config=config, **options).finished


def placed(recipe: Recipe, config: TrainConfig) -> Placement | None:
    """Returns over which devices a run goes; None: one.

    Raises `UserError` for a mesh that does not fit devices, batches or weights, and for runs of
    adapters, which have none.
    """
    if config.mesh is None:
        if (count := len(jax.devices())) > 1:
            print(f"trains on 1 of {count} devices; --set mesh.fsdp=-1 uses them all")
        return None
    if config.lora is not None:
        raise UserError("mesh: adapters are trained on one device; leave mesh out")
    placement = Placement(mesh=make_mesh(config.mesh), rules=recipe.rules(config))
    for stage in config.stages:
        placement.rows(stage.batch // config.accumulate)
    placement.params(abstract_params(recipe, config))
    return placement


def _begun(
    recipe: Recipe, config: TrainConfig, adapters: str | None, placement: Placement | None
) -> tuple[nnx.GraphDef, Params, Any]:
    """Returns the model that a run trains: structure, first parameters, and all that is none."""
    if config.lora is not None:
        graphdef, params, rest = adapted(recipe, config)
        if adapters is not None:
            params = restore_params(pathlib.Path(adapters) / "checkpoints", params)
        return graphdef, params, rest

    def make() -> tuple[Params, Any]:
        return _split(recipe, config)[1:]

    graphdef, abstract, _ = nnx.eval_shape(lambda: _split(recipe, config))
    if placement is None:
        params, rest = make()
    else:  # each device makes its part
        where = placement.params(abstract)
        params, rest = jax.jit(make, out_shardings=(where, placement.whole))()
    if config.start:
        params = started(config.start, abstract, fps=config.data.fps)
        params = params if placement is None else jax.device_put(params, where)
    return graphdef, params, rest


def _split(recipe: Recipe, config: TrainConfig) -> tuple[nnx.GraphDef, Params, Any]:
    """Returns the structure of the model, its parameters, and all that is none."""
    model = recipe.make(config, nnx.Rngs(config.seed))
    graphdef, state, rest = nnx.split(model, nnx.Param, ...)
    return graphdef, nnx.to_pure_dict(state), rest


def abstract_params(recipe: Recipe, config: TrainConfig) -> Params:
    """Returns the shapes and types of the parameters of the model of a run, without adapters."""
    return jax.eval_shape(lambda: _split(recipe, config)[1])


def export(
    recipe: Recipe, config: TrainConfig, *, dtype: str, to: pathlib.Path | None = None
) -> pathlib.Path:
    """Writes the newest checkpoint's weights in diffusers form; returns the folder.

    They are the averaged ones if the run kept them. Adapters are merged, and written by themselves
    as well (`lora.FILE`). The folder, `to`/export or that of the run, is written aside and moved
    into place. Raises `UserError` when there is no checkpoint.
    """
    out = pathlib.Path(config.out)
    if not (out / "checkpoints").is_dir():
        raise UserError(f"{out} holds no checkpoints to export; train first")
    params = started(str(out), abstract_params(recipe, config))
    to = to or out
    partial, final = to / "export.partial", to / "export"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    recipe.export(config, params, partial, dtype)
    if has_adapters(run_config(out)[1]):
        export_adapter(out, config, partial, dtype)
    shutil.rmtree(final, ignore_errors=True)
    partial.rename(final)
    return final
