"""A model straight from the checkpoints of a training run: its averaged weights, if any."""

import functools
import pathlib
from collections.abc import Callable, Collection, Mapping
from typing import Any

import numpy as np
from flax import nnx

from skyreels_jax.checkpoint import CheckpointParams, Checkpoints, find_checkpoint
from skyreels_jax.core.config import from_dict
from skyreels_jax.core.errors import UserError
from skyreels_jax.core.tree import matched, named_leaves
from skyreels_jax.core.types import Params
from skyreels_jax.data.features.manifest import complete
from skyreels_jax.data.toy_film.tokenizer import build_tokenizer
from skyreels_jax.models import layout
from skyreels_jax.models.kinds import TRAINED
from skyreels_jax.models.text_to_video import TextToVideo
from skyreels_jax.nn.lora import add_adapters
from skyreels_jax.pipelines import converted
from skyreels_jax.pipelines.defaults import own_defaults, toy_defaults
from skyreels_jax.pipelines.encoders import FROZEN, Encoders, encoders_of
from skyreels_jax.pipelines.fingerprint import weights_state
from skyreels_jax.pipelines.lora import PART
from skyreels_jax.pipelines.run_params import (
    adapted_params,
    load_params,
    read_modules,
    whole_params,
)
from skyreels_jax.pipelines.source import (
    NOWHERE,
    ModelSource,
    Modules,
    Places,
    load_tokenizer,
)
from skyreels_jax.weights.merge import Adapter, Change
from skyreels_jax.weights.params import ParamSource

KINDS = ("text_to_video", "flow_dpo")
FORCING = "diffusion_forcing"  # the name of the objective
_UPON = ("start", "lora")  # of the config: what adapters are upon, which only their run can say


def open_run(
    path: pathlib.Path,
    find: Callable[[str], ModelSource],
    *,
    config: Mapping[str, Any] | None = None,
) -> ModelSource:
    """Returns the source in the newest checkpoint under `path`/checkpoints, or in the one that
    `path` is.

    What the run did not train is what its data were made with: the VAE of its latents, and the text
    encoder of its features. Of a run that trained adapters, they are merged into the model that
    they were trained upon, which `find` opens by its name.
    config: what the run is taken for, if not for what its checkpoint says.
    Raises `UserError` if there is no checkpoint, the run trained something else, or that model is
    another one now.
    """
    checkpoint = find_checkpoint(path)  # once: a run may go on meanwhile
    step, config = _taken_for(checkpoint, config)
    if config.get("kind") == converted.KIND:
        return converted.open_converted(checkpoint)
    if config.get("kind") not in KINDS:
        raise UserError(f"{path} trained a {config.get('kind')}; give a {' or '.join(KINDS)} run")
    base = _base(path, config, find)

    def trained(weights: str | None) -> dict[str, ParamSource]:
        return _trained_params(checkpoint, config, base, weights)

    def state(frozen: list[pathlib.Path]) -> bytes:
        upon = b"" if base is None else base.state()
        weights = weights_state([*_state_files(checkpoint), *frozen])
        return f"step {step} ".encode() + upon + weights

    return source_of(config, model_id=str(path.resolve()), trained=trained, state=state)


def source_of(
    config: Mapping[str, Any],
    *,
    model_id: str,
    trained: Callable[[str | None], dict[str, ParamSource]],
    state: Callable[[list[pathlib.Path]], bytes],
) -> ModelSource:
    """Returns the model of a run with this resolved config.

    trained: the parameters of what it trains, adapters merged, by weights ("ema", "raw", None).
    state: says which weights these and those in the files that it is given are.
    Raises `UserError` where the rest, what its data were made with, is not there any more.
    """
    configs, encoders = model_configs(config), run_encoders(config)
    if encoders is None:
        try:
            frozen = {"vae": layout.read_component(pathlib.Path(config["data"]["vae"]), "vae")}
        except UserError as error:
            raise UserError(f"{model_id}: its data's VAE (data.vae) is needed: {error}") from None
        defaults, load_words = toy_defaults(config), build_tokenizer
    else:
        frozen = {name: encoders.folder.components[name] for name in FROZEN}
        defaults = own_defaults(encoders.folder, config)
        load_words = functools.partial(load_tokenizer, encoders.folder.tokenizer)
    whole = {**configs, **{name: part.config for name, part in frozen.items()}}

    def params(weights: str | None) -> dict[str, ParamSource]:
        stored = {name: layout.stored_params(part) for name, part in frozen.items()}
        return {**trained(weights), **stored}

    def read(
        dtype: str, names: Collection[str] = tuple(whole), *, places: Places = NOWHERE
    ) -> Modules:
        return read_modules(params(None), whole, dtype, names, places)

    return ModelSource(
        model_id=model_id,
        configs=whole,
        defaults=defaults,
        load_tokenizer=load_words,
        read=read,
        params=params,
        state=lambda: state([part.weights for part in frozen.values()]),
        forcing=_objective(config).get("name") == FORCING,
    )


def trained_params(
    path: pathlib.Path,
    find: Callable[[str], ModelSource],
    *,
    config: Mapping[str, Any] | None = None,
) -> dict[str, ParamSource]:
    """Returns the parameters of what a run trained, and of nothing else: whether there still is
    what its data were made with does not matter.

    The arguments are those of `open_run`, and so are the errors.
    """
    checkpoint = find_checkpoint(path)
    config = _taken_for(checkpoint, config)[1]
    return _trained_params(checkpoint, config, _base(path, config, find), None)


def _taken_for(
    checkpoint: pathlib.Path, config: Mapping[str, Any] | None
) -> tuple[int, Mapping[str, Any]]:
    step, kept = run_config(checkpoint)
    upon = {name: kept.get(name) for name in _UPON}
    return step, kept if config is None else {**config, **upon}


def _base(
    path: pathlib.Path, config: Mapping[str, Any], find: Callable[[str], ModelSource]
) -> ModelSource | None:
    """Returns what the adapters of a run were trained upon; None for a run of whole models."""
    if not has_adapters(config):
        return None
    base = find(config["start"])
    if base.fingerprint != config["lora"]["base"]:
        raise UserError(
            f"{path}: its adapters were trained upon another {config['start']} than there is "
            "now; what it exported before is still whole"
        )
    return base


def _trained_params(
    checkpoint: pathlib.Path,
    config: Mapping[str, Any],
    base: ModelSource | None,
    weights: str | None,
) -> dict[str, ParamSource]:
    configs = model_configs(config)
    if base is None:
        return whole_params(checkpoint, configs, weights)
    adapter = trained_adapter(checkpoint, weights=weights)
    return adapted_params(base, configs, adapter, fps=config["data"].get("fps", 0))


def run_config(path: pathlib.Path) -> tuple[int, dict[str, Any]]:
    """Returns the step of the newest checkpoint of the run in `path`, or of the one that `path` is,
    and its resolved config.

    Raises `UserError` if there is no checkpoint.
    """
    checkpoint = find_checkpoint(path)
    with Checkpoints(checkpoint.parent) as checkpoints:
        return int(checkpoint.name), checkpoints.config(int(checkpoint.name))


def has_adapters(config: Mapping[str, Any]) -> bool:
    """Returns whether a run with this resolved config trained adapters."""
    return config.get("lora") is not None


def trained_whole(config: Mapping[str, Any]) -> bool:
    """Returns whether a run with this resolved config trained all that is in its checkpoints."""
    return config.get("kind") != converted.KIND and not has_adapters(config)


def trained_adapter(path: pathlib.Path, *, weights: str | None = None) -> Adapter:
    """Returns the adapter that the run in `path` trained.

    weights: as in `CheckpointParams`.
    Raises `UserError` where the checkpoint does not hold what the run's config says.
    """
    checkpoint = find_checkpoint(path)
    config = run_config(checkpoint)[1]
    lora, configs = config["lora"], model_configs(config)

    def make() -> TextToVideo:
        parts = {
            name: layout.KINDS[name].model(part, rngs=nnx.Rngs(0)) for name, part in configs.items()
        }
        model = TextToVideo(parts[PART], parts.get("text_encoder"))
        shape = {"rank": lora["rank"], "alpha": lora["alpha"]}
        add_adapters(model, lora["targets"], **shape, within=f"{PART}/", rngs=nnx.Rngs(0))
        return model

    like = nnx.to_pure_dict(nnx.split(nnx.eval_shape(make), nnx.Param, ...)[1])
    stored = CheckpointParams(checkpoint, weights=weights)
    matched(stored.leaves, like, of=f"the checkpoint {stored.name}")
    params = load_params(stored.within(PART), like[PART], "float32")
    return adapter_of(params, scale=lora["alpha"] / lora["rank"], name=str(path))


def adapted_origin(checkpoint: pathlib.Path, weights: str | None = None) -> str | None:
    """Returns what to write into files of the model that a run's adapters are merged into; None for
    a run of whole models.

    Both ends of such a file may be as they were before (`fingerprint`). weights: as in
    `CheckpointParams`.
    """
    if not has_adapters(run_config(checkpoint)[1]):
        return None
    return f"adapters {weights_state(_state_files(checkpoint)).hex()[:16]} {weights}"


def _state_files(checkpoint: pathlib.Path) -> list[pathlib.Path]:
    return sorted(file for file in (checkpoint / "state").rglob("*") if file.is_file())


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


def model_configs(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the configurations of the models that a run with this resolved config trained."""
    return {
        name: from_dict(layout.KINDS[name].config, config["model"][name])
        for name in TRAINED
        if config["model"][name] is not None
    }


def run_encoders(config: Mapping[str, Any]) -> Encoders | None:
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
