"""A model straight from the checkpoints of a training run: its averaged weights, if any."""

import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from flax import nnx

from skyreels_jax.checkpoint import Checkpoints, restore_params
from skyreels_jax.core.config import from_dict
from skyreels_jax.core.errors import UserError
from skyreels_jax.core.tree import matched, named_leaves
from skyreels_jax.core.types import Params
from skyreels_jax.data.toy_film.tokenizer import build_tokenizer
from skyreels_jax.models import layout
from skyreels_jax.models.dit.fps import fold_fps, tells_fps
from skyreels_jax.models.text_to_video import TextToVideo
from skyreels_jax.nn.lora import add_adapters
from skyreels_jax.pipelines.defaults import toy_defaults
from skyreels_jax.pipelines.fingerprint import weights_state
from skyreels_jax.pipelines.lora import PART
from skyreels_jax.pipelines.source import ModelSource, Modules
from skyreels_jax.weights.merge import Adapter, Change, merge

TRAINED = ("transformer", "text_encoder")
KINDS = ("text_to_video", "flow_dpo")
FORCING = "diffusion_forcing"  # the name of the objective


def open_run(path: pathlib.Path, find: Callable[[str], ModelSource]) -> ModelSource:
    """Returns the source in the newest checkpoint under `path`/checkpoints.

    The VAE is the one that the run's latents were made with. Of a run that trained adapters, they
    are merged into the model that they were trained upon, which `find` opens by its name.
    Raises `UserError` if there is no checkpoint, the run trained something else, or that model is
    another one now.
    """
    step, config = run_config(path)
    if config.get("kind") not in KINDS:
        raise UserError(f"{path} trained a {config.get('kind')}; give a {' or '.join(KINDS)} run")
    vae = layout.read_component(pathlib.Path(config["data"]["vae"]), "vae")
    configs = _model_configs(config)
    base = None
    if has_adapters(config):
        base = find(config["start"])
        if base.fingerprint != config["lora"]["base"]:
            raise UserError(
                f"{path}: its adapters were trained upon another {config['start']} than there is "
                "now; what it exported before is still whole"
            )

    def read(dtype: str) -> Modules:
        made = {name: layout.abstract_model(name, configs[name]) for name in TRAINED}
        like = {name: abstract for name, (_, abstract) in made.items()}
        if base is None:
            params = restore_params(path / "checkpoints", like)
            params = jax.tree.map(lambda leaf: leaf.astype(dtype), params)
        else:
            params = matched(_base_params(base, config, dtype), like, of=base.model_id)
            params[PART] = merge(params[PART], [(trained_adapter(path), 1.0)])
        modules = {name: nnx.merge(made[name][0], params[name]) for name in TRAINED}
        return {**modules, "vae": layout.load_component(vae, dtype="float32")}

    def state() -> bytes:
        upon = b"" if base is None else base.state()
        return f"step {step} ".encode() + upon + weights_state([vae.weights])

    return ModelSource(
        model_id=str(path.resolve()),
        configs={**configs, "vae": vae.config},
        defaults=toy_defaults(config),
        load_tokenizer=build_tokenizer,
        read=read,
        state=state,
        forcing=_objective(config).get("name") == FORCING,
    )


def run_config(path: pathlib.Path) -> tuple[int, dict[str, Any]]:
    """Returns the step of the newest checkpoint of the run in `path`, and its resolved config.

    Raises `UserError` if there is no checkpoint.
    """
    with Checkpoints(path / "checkpoints") as checkpoints:
        step = checkpoints.latest()
        if step is None:
            raise UserError(f"no checkpoint under {path / 'checkpoints'} yet")
        return step, checkpoints.config(step)


def has_adapters(config: Mapping[str, Any]) -> bool:
    """Returns whether a run with this resolved config trained adapters."""
    return config.get("lora") is not None


def trained_adapter(path: pathlib.Path) -> Adapter:
    """Returns the adapter that the run in `path` trained, its averaged one if it kept that.

    Raises `UserError` where the checkpoint does not hold what the run's config says.
    """
    config = run_config(path)[1]
    lora, configs = config["lora"], _model_configs(config)

    def make() -> TextToVideo:
        parts = (layout.KINDS[name].model(configs[name], rngs=nnx.Rngs(0)) for name in TRAINED)
        model = TextToVideo(*parts)
        shape = {"rank": lora["rank"], "alpha": lora["alpha"]}
        add_adapters(model, lora["targets"], **shape, within=f"{PART}/", rngs=nnx.Rngs(0))
        return model

    like = nnx.to_pure_dict(nnx.split(nnx.eval_shape(make), nnx.Param, ...)[1])
    stored = restore_params(path / "checkpoints", like)[PART]
    return adapter_of(stored, scale=lora["alpha"] / lora["rank"], name=str(path))


def adapter_of(params: Params, *, scale: float, name: str) -> Adapter:
    """Returns what parameters that `add_adapters` made in a model change in it."""
    leaves = {path: np.asarray(leaf, np.float32) for path, leaf in named_leaves(params)}
    changes = {}
    for path, down in leaves.items():
        layer, is_down, _ = path.partition("/adapter/down/kernel")
        if is_down:
            up = np.float32(scale) * leaves[f"{layer}/adapter/up/kernel"]
            changes[f"{layer}/kernel"] = [
                Change(index, down=down[index], up=up[index])
                for index in np.ndindex(down.shape[:-2])
            ]
    return Adapter(name=name, changes=changes)


def _base_params(base: ModelSource, config: Mapping[str, Any], dtype: str) -> Params:
    """Returns the weights that the adapters of a run were trained upon."""
    modules = base.read(dtype)
    params = {name: nnx.to_pure_dict(nnx.state(modules[name])) for name in TRAINED}
    if tells_fps(params[PART]) and not config["model"][PART]["inject_sample_info"]:
        params[PART] = fold_fps(params[PART], config["data"]["fps"])  # as the run did
    return params


def _model_configs(config: Mapping[str, Any]) -> dict[str, Any]:
    return {name: from_dict(layout.KINDS[name].config, config["model"][name]) for name in TRAINED}


def _objective(config: dict[str, Any]) -> dict[str, Any]:
    """Returns the velocity objective of a run: its own, or the one whose times its pairs have."""
    objective = config.get("objective", {})
    return objective.get("velocity", objective)
