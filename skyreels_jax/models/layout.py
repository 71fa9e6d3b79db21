"""What a model folder is: its components, their configurations, name tables and weight files.

Diffusers form: `model_index.json`, `vae/`, `text_encoder/`, `tokenizer/`, `transformer/`,
`scheduler/`. Official form: `config.json` and `*.safetensors` of the transformer, `Wan2.1_VAE.pth`,
`models_t5_umt5-xxl-enc-bf16.pth`, `google/umt5-xxl/` (tokenizer), and, where VAE or text encoder
are not the released ones, `diffusers_configs.json` (ours: what the official form leaves unsaid).
"""

import dataclasses
import json
import pathlib
from collections.abc import Callable
from typing import Any

from flax import nnx

from skyreels_jax.core.config import from_dict, to_dict
from skyreels_jax.core.errors import UserError
from skyreels_jax.core.types import Params
from skyreels_jax.models.dit import config as dit_config
from skyreels_jax.models.dit import weights as dit_weights
from skyreels_jax.models.dit.modeling import SkyReelsV2Transformer3D
from skyreels_jax.models.umt5 import config as umt5_config
from skyreels_jax.models.umt5 import weights as umt5_weights
from skyreels_jax.models.umt5.modeling import UMT5Encoder
from skyreels_jax.models.vae import config as vae_config
from skyreels_jax.models.vae import weights as vae_weights
from skyreels_jax.models.vae.modeling import AutoencoderKLWan
from skyreels_jax.weights.convert import export_tree, load_tree
from skyreels_jax.weights.reader import open_source
from skyreels_jax.weights.table import Table
from skyreels_jax.weights.writer import write_safetensors

MAX_SHARD_BYTES = 5 * 10**9
EXTRA = "diffusers_configs.json"
SETTINGS = "skyreels_jax.json"  # what the model makes when nothing is asked for (pipelines)
PIPELINES = ("SkyReelsV2Pipeline", "SkyReelsV2DiffusionForcingPipeline")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Kind:
    """One sort of component: how its files are named and what they become.

    header: the entries of its config.json that name the architecture.
    hints: entries that are written for other readers, and not read.
    official: its weight file in an official folder ("": the folder itself).
    """

    config: type
    ignored: frozenset[str]
    model: Callable[..., nnx.Module]
    diffusers_table: Callable[[Any], Table]
    official_table: Callable[[Any], Table]
    header: dict[str, Any]
    hints: dict[str, Any]
    basename: str
    official: str


KINDS = {
    "vae": Kind(
        config=vae_config.VAEConfig,
        ignored=frozenset(vae_config.IGNORED_FIELDS),
        model=AutoencoderKLWan,
        diffusers_table=vae_weights.diffusers_table,
        official_table=vae_weights.official_table,
        header={"_class_name": "AutoencoderKLWan"},
        hints={},
        basename="diffusion_pytorch_model",
        official="Wan2.1_VAE.pth",
    ),
    "text_encoder": Kind(
        config=umt5_config.UMT5Config,
        ignored=umt5_config.IGNORED,
        model=UMT5Encoder,
        diffusers_table=umt5_weights.diffusers_table,
        official_table=umt5_weights.official_table,
        header={"architectures": ["UMT5EncoderModel"], "model_type": "umt5"},
        # Else transformers computes in the stored type, and diffusers the rest in float32.
        hints={"dtype": "float32"},
        basename="model",
        official="models_t5_umt5-xxl-enc-bf16.pth",
    ),
    "transformer": Kind(
        config=dit_config.DiTConfig,
        ignored=frozenset(),
        model=SkyReelsV2Transformer3D,
        diffusers_table=dit_weights.diffusers_table,
        official_table=dit_weights.official_table,
        header={"_class_name": "SkyReelsV2Transformer3DModel"},
        hints={},
        basename="diffusion_pytorch_model",
        official="",
    ),
}
TOKENIZER = {"diffusers": "tokenizer", "official": "google/umt5-xxl"}
SCHEDULER = {
    "_class_name": "UniPCMultistepScheduler",
    "num_train_timesteps": 1000,
    "prediction_type": "flow_prediction",
    "use_flow_sigmas": True,
    "flow_shift": 8.0,  # the official default for text-to-video
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Component:
    """A model on disk: its configuration, its name table, and its weight file or folder."""

    name: str
    config: Any
    table: Table
    weights: pathlib.Path


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelFolder:
    """What a folder holds. `form` is "diffusers" or "official"; `scheduler` its json, as it is."""

    path: pathlib.Path
    form: str
    components: dict[str, Component]
    tokenizer: pathlib.Path
    scheduler: dict[str, Any]
    pipeline: str


def read_folder(path: str | pathlib.Path) -> ModelFolder:
    """Recognises the model folder `path`; reads configurations, opens no weights.

    Raises `UserError` for a missing folder, one that is no model, one with parts missing (all are
    listed), a damaged or unknown configuration.
    """
    path = pathlib.Path(path)
    if not path.is_dir():
        raise UserError(f"{path}: no such model folder")
    if (path / "model_index.json").is_file():
        return _read_diffusers(path)
    official = [kind.official for kind in KINDS.values() if kind.official]
    if (path / "config.json").is_file() and any((path / name).exists() for name in official):
        return _read_official(path)
    raise UserError(
        f"{path}: not a model folder; expected model_index.json (diffusers) or config.json with "
        f"{' and '.join(official)} (official SkyReels-V2)"
    )


def _read_diffusers(path: pathlib.Path) -> ModelFolder:
    index = read_json(path / "model_index.json")
    pipeline = index.get("_class_name")
    if pipeline not in PIPELINES:
        legal = ", ".join(PIPELINES)
        raise UserError(f"{path}: model_index.json is for {pipeline}; legal: {legal}")
    _require(
        path,
        *(f"{name}/config.json" for name in KINDS),
        "scheduler/scheduler_config.json",
        f"{TOKENIZER['diffusers']}/tokenizer_config.json",
    )
    scheduler = read_json(path / "scheduler" / "scheduler_config.json")
    return ModelFolder(
        path=path,
        form="diffusers",
        components={name: read_component(path / name, name) for name in KINDS},
        tokenizer=path / TOKENIZER["diffusers"],
        scheduler={"_class_name": SCHEDULER["_class_name"], **scheduler},
        pipeline=pipeline,
    )


def read_component(folder: pathlib.Path, name: str) -> Component:
    """Returns component `name` ("vae", ...) in diffusers form in `folder`; opens no weights.

    Raises `UserError` for a missing or unknown configuration.
    """
    kind, values = KINDS[name], read_json(folder / "config.json")
    for key, expected in kind.header.items():
        if values.get(key) != expected:
            raise UserError(
                f"{folder}: config.json has {key} = {values.get(key)!r}; expected {expected!r}"
            )
    config = from_dict(kind.config, values, ignore=kind.ignored)
    return Component(name=name, config=config, table=kind.diffusers_table(config), weights=folder)


def _read_official(path: pathlib.Path) -> ModelFolder:
    _require(
        path,
        *(kind.official for kind in KINDS.values() if kind.official),
        f"{TOKENIZER['official']}/tokenizer_config.json",
    )
    extra = read_json(path / EXTRA) if (path / EXTRA).is_file() else {}
    configs = {
        "vae": vae_config.VAEConfig(),
        "text_encoder": umt5_config.XXL,
        "transformer": dit_config.from_official(read_json(path / "config.json")),
    }
    for name in configs.keys() & extra.keys():
        configs[name] = from_dict(KINDS[name].config, extra[name], ignore=KINDS[name].ignored)
    components = {
        name: Component(
            name=name,
            config=configs[name],
            table=kind.official_table(configs[name]),
            weights=path / kind.official,
        )
        for name, kind in KINDS.items()
    }
    # The releases say it in their names alone ("SkyReels-V2-DF-14B-540P").
    forcing = "DF" in path.resolve().name.split("-")
    return ModelFolder(
        path=path,
        form="official",
        components=components,
        tokenizer=path / TOKENIZER["official"],
        scheduler=extra.get("scheduler", SCHEDULER),
        pipeline=extra.get("pipeline", PIPELINES[forcing]),
    )


def _require(path: pathlib.Path, *names: str) -> None:
    absent = [name for name in names if not (path / name).exists()]
    if absent:
        raise UserError(f"{path}: incomplete model folder, missing {', '.join(absent)}")


def read_json(path: pathlib.Path) -> dict[str, Any]:
    """Returns the object in a json file; raises `UserError` for anything else."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: not readable as json ({error})") from None
    if not isinstance(values, dict):
        raise UserError(f"{path}: expected a json object")
    return values


def write_json(path: pathlib.Path, values: dict[str, Any]) -> None:
    """Writes a json object as diffusers and transformers do (two spaces, sorted)."""
    path.write_text(json.dumps(values, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def abstract_model(name: str, config: Any) -> tuple[nnx.GraphDef, Params]:
    """Returns structure and parameter shapes of component `name` ("vae", ...); takes no memory."""
    model = nnx.eval_shape(lambda: KINDS[name].model(config, rngs=nnx.Rngs(0)))
    graphdef, state = nnx.split(model)
    return graphdef, nnx.to_pure_dict(state)


def load_component(component: Component, *, dtype: Any = None, **options: Any) -> nnx.Module:
    """Returns the component as a module with its weights, read leaf by leaf.

    `dtype` and `options` (`place`) are those of `weights.convert.load_tree`, and so are the errors.
    """
    graphdef, abstract = abstract_model(component.name, component.config)
    source = open_source(component.weights)
    tree = load_tree(component.table, source, abstract, dtype=dtype, **options)
    return nnx.merge(graphdef, tree)


def save_component(
    folder: str | pathlib.Path,
    name: str,
    config: Any,
    tree: Params,
    *,
    dtype: Any = None,
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> None:
    """Writes component `name` ("vae", "text_encoder", "transformer") in diffusers form to `folder`.

    `dtype` is the type of the stored floating tensors (None: as in `tree`).
    """
    folder, kind = pathlib.Path(folder), KINDS[name]
    folder.mkdir(parents=True, exist_ok=True)
    write_safetensors(
        folder,
        export_tree(kind.diffusers_table(config), tree, dtype=dtype),
        max_shard_bytes=max_shard_bytes,
        basename=kind.basename,
    )
    write_config(folder, name, config)


def write_config(folder: pathlib.Path, name: str, config: Any) -> None:
    """Writes the config.json of component `name` in diffusers form."""
    kind = KINDS[name]
    write_json(folder / "config.json", {**kind.header, **kind.hints, **to_dict(config)})


def write_index(
    folder: pathlib.Path, *, scheduler: dict[str, Any] = SCHEDULER, pipeline: str = PIPELINES[0]
) -> None:
    """Writes model_index.json and the scheduler of a diffusers folder that has its tokenizer."""
    tokenizer = read_json(folder / TOKENIZER["diffusers"] / "tokenizer_config.json")
    (folder / "scheduler").mkdir(exist_ok=True)
    write_json(folder / "scheduler" / "scheduler_config.json", scheduler)
    index = {
        "_class_name": pipeline,
        "_diffusers_version": "0.42.1",  # the version these folders are tested with
        "vae": ["diffusers", "AutoencoderKLWan"],
        "text_encoder": ["transformers", "UMT5EncoderModel"],
        "tokenizer": ["transformers", tokenizer.get("tokenizer_class", "T5TokenizerFast")],
        "transformer": ["diffusers", "SkyReelsV2Transformer3DModel"],
        "scheduler": ["diffusers", scheduler["_class_name"]],
    }
    write_json(folder / "model_index.json", index)
