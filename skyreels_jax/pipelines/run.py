"""A model straight from the checkpoints of a training run: its averaged weights, if any."""

import functools
import pathlib
from collections.abc import Callable, Collection, Mapping
from typing import Any

import jax
import numpy as np
from flax import nnx

from skyreels_jax.checkpoint import Checkpoints, restore_params
from skyreels_jax.core.config import from_dict
from skyreels_jax.core.errors import UserError
from skyreels_jax.core.tree import matched, named_leaves
from skyreels_jax.core.types import Params
from skyreels_jax.data.features.manifest import complete
from skyreels_jax.data.toy_film.tokenizer import build_tokenizer
from skyreels_jax.models import layout
from skyreels_jax.models.dit.fps import fold_fps, tells_fps
from skyreels_jax.models.text_to_video import TextToVideo
from skyreels_jax.nn.lora import add_adapters
from skyreels_jax.pipelines.defaults import own_defaults, toy_defaults
from skyreels_jax.pipelines.encoders import FROZEN, Encoders, encoders_of
from skyreels_jax.pipelines.fingerprint import weights_state
from skyreels_jax.pipelines.lora import PART
from skyreels_jax.pipelines.source import FLOAT32, ModelSource, Modules, load_tokenizer
from skyreels_jax.weights.merge import Adapter, Change, merge

TRAINED = ("transformer", "text_encoder")
KINDS = ("text_to_video", "flow_dpo")
FORCING = "diffusion_forcing"  # the name of the objective


def open_run(path: pathlib.Path, find: Callable[[str], ModelSource]) -> ModelSource:
    """Returns the source in the newest checkpoint under `path`/checkpoints.

    What the run did not train is what its data were made with: the VAE of its latents, and the text
    encoder of its features. Of a run that trained adapters, they
    are merged into the model that they were trained upon, which `find` opens by its name.
    Raises `UserError` if there is no checkpoint, the run trained something else, or that model is
    another one now.
    """
    step, config = run_config(path)
    if config.get("kind") not in KINDS:
        raise UserError(f"{path} trained a {config.get('kind')}; give a {' or '.join(KINDS)} run")
    configs, encoders = _model_configs(config), _encoders(config)
    if encoders is None:
        frozen = {"vae": layout.read_component(pathlib.Path(config["data"]["vae"]), "vae")}
        defaults, load_words = toy_defaults(config), build_tokenizer
    else:
        frozen = {name: encoders.folder.components[name] for name in FROZEN}
        defaults = own_defaults(encoders.folder, config)
        load_words = functools.partial(load_tokenizer, encoders.folder.tokenizer)
    base = None
    if has_adapters(config):
        base = find(config["start"])
        if base.fingerprint != config["lora"]["base"]:
            raise UserError(
                f"{path}: its adapters were trained upon another {config['start']} than there is "
                "now; what it exported before is still whole"
            )

    def read(dtype: str, names: Collection[str] = (*configs, *frozen)) -> Modules:
        made = {name: layout.abstract_model(name, part) for name, part in configs.items()}
        like = {name: abstract for name, (_, abstract) in made.items()}
        if base is None:
            params = restore_params(path / "checkpoints", like)
            params = jax.tree.map(lambda leaf: leaf.astype(dtype), params)
        else:
            params = matched(_base_params(base, config, dtype), like, of=base.model_id)
            params[PART] = merge(params[PART], [(trained_adapter(path), 1.0)])
        modules = {name: nnx.merge(made[name][0], params[name]) for name in configs}
        for name, part in frozen.items():
            if name in names:
                own = "float32" if name in FLOAT32 else dtype
                modules[name] = layout.load_component(part, dtype=own)
        return {name: module for name, module in modules.items() if name in names}

    def state() -> bytes:
        upon = b"" if base is None else base.state()
        weights = weights_state(part.weights for part in frozen.values())
        return f"step {step} ".encode() + upon + weights

    return ModelSource(
        model_id=str(path.resolve()),
        configs={**configs, **{name: part.config for name, part in frozen.items()}},
        defaults=defaults,
        load_tokenizer=load_words,
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
        parts = {
            name: layout.KINDS[name].model(part, rngs=nnx.Rngs(0)) for name, part in configs.items()
        }
        model = TextToVideo(parts[PART], parts.get("text_encoder"))
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
    modules = base.read(dtype, tuple(_model_configs(config)))
    params = {name: nnx.to_pure_dict(nnx.state(module)) for name, module in modules.items()}
    if tells_fps(params[PART]) and not config["model"][PART]["inject_sample_info"]:
        params[PART] = fold_fps(params[PART], config["data"]["fps"])  # as the run did
    return params


def _model_configs(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the configurations of the parts that a run trained."""
    return {
        name: from_dict(layout.KINDS[name].config, config["model"][name])
        for name in TRAINED
        if config["model"][name] is not None
    }


def _encoders(config: Mapping[str, Any]) -> Encoders | None:
    """Returns what made the features that a run was trained on; None for one on ToyFilm.

    Raises `UserError` where the features or that model are not there any more.
    """
    if not config["data"].get("features"):
        return None
    folder = pathlib.Path(config["data"]["features"].split(",")[0].strip())
    return encoders_of(complete(folder)[0][1].made)


def _objective(config: dict[str, Any]) -> dict[str, Any]:
    """Returns the velocity objective of a run: its own, or the one whose times its pairs have."""
    objective = config.get("objective", {})
    return objective.get("velocity", objective)
