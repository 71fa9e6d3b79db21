"""What a model folder is: its components, their configurations, name tables and weight files.

Diffusers form: `model_index.json`, `vae/`, `text_encoder/`, `tokenizer/`, `transformer/`,
`scheduler/`, and for image-to-video `image_encoder/` and `image_processor/`. Official form:
`config.json` and `*.safetensors` of the transformer, `Wan2.1_VAE.pth`,
`models_t5_umt5-xxl-enc-bf16.pth`, `google/umt5-xxl/` (tokenizer), for image-to-video
`models_clip_open-clip-xlm-roberta-large-vit-huge-14.pth`, and, where these are not the released
ones, `diffusers_configs.json` (ours: what the official form leaves unsaid). Whether an official
folder is for diffusion forcing its name alone says, as the releases' do (SkyReels-V2-DF-14B-540P).
"""

import dataclasses
import json
import pathlib
import re
from typing import Any

from flax import nnx

from skyreels_jax.core.config import from_dict, to_dict
from skyreels_jax.core.errors import UserError
from skyreels_jax.core.types import Params
from skyreels_jax.models.clip import preprocess
from skyreels_jax.models.clip.config import VIT_H_14
from skyreels_jax.models.clip.preprocess import CLIPImageConfig
from skyreels_jax.models.dit.config import from_official
from skyreels_jax.models.kinds import IMAGE_PARTS, KINDS, TEXT_PARTS, abstract_model, in_float32
from skyreels_jax.models.umt5.config import XXL
from skyreels_jax.models.vae.config import VAEConfig
from skyreels_jax.nn.whole import put_together
from skyreels_jax.weights.convert import load_tree
from skyreels_jax.weights.export import export_params
from skyreels_jax.weights.params import ParamSource, StoredParams, TreeParams
from skyreels_jax.weights.reader import open_source
from skyreels_jax.weights.table import Table
from skyreels_jax.weights.writer import write_safetensors

MAX_SHARD_BYTES = 5 * 10**9
EXTRA = "diffusers_configs.json"
SETTINGS = "skyreels_jax.json"  # what the model makes when nothing is asked for (pipelines)
IMAGE_TO_VIDEO = "SkyReelsV2ImageToVideoPipeline"
PIPELINES = ("SkyReelsV2Pipeline", "SkyReelsV2DiffusionForcingPipeline", IMAGE_TO_VIDEO)
PROCESSOR = "image_processor"
RELEASED_PROCESSOR = preprocess.to_json(CLIPImageConfig())
TOKENIZER = {"diffusers": "tokenizer", "official": "google/umt5-xxl"}
SCHEDULER = {
    "_class_name": "UniPCMultistepScheduler",
    "num_train_timesteps": 1000,
    "prediction_type": "flow_prediction",
    "use_flow_sigmas": True,
    "flow_shift": 8.0,  # the official default for text-to-video
}
IMAGE_SCHEDULER = {**SCHEDULER, "flow_shift": 5.0}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Component:
    """A model on disk: its configuration, its name table, and its weight file or folder."""

    name: str
    config: Any
    table: Table
    weights: pathlib.Path


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelFolder:
    """What a folder holds. `form` is "diffusers" or "official"; `scheduler` its json, as it is.

    pipelines: what it may be for, one of `PIPELINES`; several where files do not tell.
    image_processor: of an image-to-video model; None for all others.
    """

    path: pathlib.Path
    form: str
    components: dict[str, Component]
    tokenizer: pathlib.Path
    scheduler: dict[str, Any]
    pipelines: tuple[str, ...]
    image_processor: CLIPImageConfig | None = None

    @property
    def pipeline(self) -> str:
        """What it is for; raises `UserError` where its files and its name do not tell."""
        if len(self.pipelines) > 1:
            raise UserError(
                f"{self.path}: nothing says if this is a text-to-video or a diffusion-forcing "
                "model, whose files are alike; name the folder as the release is (legal: T2V or DF "
                f'in it, as SkyReels-V2-DF-14B-540P), or put {{"pipeline": "..."}} into its '
                f"{EXTRA} (legal: {', '.join(self.pipelines)})"
            )
        return self.pipelines[0]


def read_folder(
    path: str | pathlib.Path, *, model_id: str | None = None, complete: bool = True
) -> ModelFolder:
    """Recognises the model folder `path`; reads configurations, opens no weights.

    model_id: what it is called, if not as the folder. complete: whether weights are to be there.
    Raises `UserError` for a missing folder, one that is no model, one with parts missing (all are
    listed), a damaged or unknown configuration.
    """
    path = pathlib.Path(path)
    if not path.is_dir():
        raise UserError(f"{path}: no such model folder")
    if (path / "model_index.json").is_file():
        return _read_diffusers(path)
    official = [KINDS[name].official for name in ("vae", "text_encoder")]
    marks = official if complete else [TOKENIZER["official"]]
    if (path / "config.json").is_file() and any((path / name).exists() for name in marks):
        names = [path.absolute(), path.resolve(), pathlib.PurePath(model_id or "")]
        return _read_official(path, [p.name for p in names], complete=complete)
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
    image = pipeline == IMAGE_TO_VIDEO
    names = IMAGE_PARTS if image else TEXT_PARTS
    _require(
        path,
        *(f"{name}/config.json" for name in names),
        "scheduler/scheduler_config.json",
        f"{TOKENIZER['diffusers']}/tokenizer_config.json",
        *([PROCESSOR] if image else []),
    )
    components = {name: read_component(path / name, name) for name in names}
    if (components["transformer"].config.image_dim is not None) != image:
        raise UserError(
            f"{path}: model_index.json is for {pipeline}, but the transformer has image_dim = "
            f"{components['transformer'].config.image_dim}"
        )
    scheduler = read_json(path / "scheduler" / "scheduler_config.json")
    return ModelFolder(
        path=path,
        form="diffusers",
        components=components,
        tokenizer=path / TOKENIZER["diffusers"],
        scheduler={"_class_name": SCHEDULER["_class_name"], **scheduler},
        pipelines=(pipeline,),
        image_processor=read_processor(path / PROCESSOR) if image else None,
    )


def read_processor(folder: pathlib.Path) -> CLIPImageConfig:
    """Returns how a diffusers folder's `image_processor/` prepares images.

    It holds a `CLIPImageProcessor`, or a `CLIPProcessor`, of which transformers 5 writes one file
    for image and text. Raises `UserError` for a missing, damaged or other processor.
    """
    if (folder / "preprocessor_config.json").is_file():
        return preprocess.from_json(read_json(folder / "preprocessor_config.json"))
    values = read_json(folder / "processor_config.json").get("image_processor", {})
    return preprocess.from_json(values)


def read_component(folder: pathlib.Path, name: str) -> Component:
    """Returns component `name` ("vae", ...) in diffusers form in `folder`; opens no weights.

    Raises `UserError` for a missing folder and a missing or unknown configuration.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: there is no such folder; expected a {name} in diffusers form")
    kind, values = KINDS[name], read_json(folder / "config.json")
    for key, expected in kind.header.items():
        if values.get(key) != expected:
            raise UserError(
                f"{folder}: config.json has {key} = {values.get(key)!r}; expected {expected!r}"
            )
    config = from_dict(kind.config, values, ignore=kind.ignored)
    return Component(name=name, config=config, table=kind.diffusers_table(config), weights=folder)


def _read_official(path: pathlib.Path, names: list[str], *, complete: bool) -> ModelFolder:
    configs = {
        "vae": VAEConfig(),
        "text_encoder": XXL,
        "transformer": from_official(read_json(path / "config.json")),
    }
    image = configs["transformer"].image_dim is not None
    if image:
        configs["image_encoder"] = VIT_H_14
    _require(
        path,
        *(KINDS[part].official for part in configs if complete and KINDS[part].official),
        f"{TOKENIZER['official']}/tokenizer_config.json",
    )
    extra = read_json(path / EXTRA) if (path / EXTRA).is_file() else {}
    for part in configs.keys() & extra.keys():
        configs[part] = from_dict(KINDS[part].config, extra[part], ignore=KINDS[part].ignored)
    components = {
        part: Component(
            name=part,
            config=config,
            table=KINDS[part].official_table(config),
            weights=path / KINDS[part].official,
        )
        for part, config in configs.items()
    }
    return ModelFolder(
        path=path,
        form="official",
        components=components,
        tokenizer=path / TOKENIZER["official"],
        scheduler=extra.get("scheduler", IMAGE_SCHEDULER if image else SCHEDULER),
        pipelines=_official_pipelines(path, names, extra.get("pipeline"), image=image),
        image_processor=preprocess.from_json(extra.get("image_processor", RELEASED_PROCESSOR))
        if image
        else None,
    )


def _official_pipelines(
    path: pathlib.Path, names: list[str], said: Any, *, image: bool
) -> tuple[str, ...]:
    """Returns what an official folder may be for: what `EXTRA` says, or else its names."""
    legal = (IMAGE_TO_VIDEO,) if image else PIPELINES[:2]
    if said is not None and said not in legal:
        raise UserError(f"{path}: {EXTRA} is for {said!r}; legal here: {', '.join(legal)}")
    if said is not None or image:
        return (said or IMAGE_TO_VIDEO,)
    words = {word for name in names for word in re.findall("[a-z0-9]+", name.lower())}
    found = tuple(p for p, word in zip(legal, ("t2v", "df"), strict=True) if word in words)
    return found if len(found) == 1 else legal


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


def load_component(component: Component, *, dtype: Any = None, **options: Any) -> nnx.Module:
    """Returns the component as a module with its weights, read leaf by leaf.

    `dtype` and `options` (`shardings`) are those of `weights.convert.load_tree`, and so are the
    errors; with a `dtype`, parameters that are `in_float32` keep to that.
    """
    graphdef, abstract = abstract_model(component.name, component.config)
    source = open_source(component.weights)
    options |= {"dtype": dtype, "kept": in_float32}
    tree = load_tree(component.table, source, abstract, **options)
    return put_together(graphdef, tree)


def stored_params(component: Component) -> StoredParams:
    """Returns the parameters of the component, to be read one by one.

    Raises `UserError` where its weight files are damaged or of another model.
    """
    abstract = abstract_model(component.name, component.config)[1]
    return StoredParams(component.table, open_source(component.weights), abstract)


def save_component(
    folder: str | pathlib.Path, name: str, config: Any, tree: Params, *, dtype: Any = None
) -> None:
    """Writes component `name` (one of `KINDS`) in diffusers form to `folder`.

    `dtype` is the type of the stored floating tensors (None: as in `tree`).
    """
    write_component(pathlib.Path(folder), name, config, TreeParams(tree), dtype=dtype)


def write_component(
    folder: pathlib.Path,
    name: str,
    config: Any,
    params: ParamSource,
    *,
    dtype: Any = None,
    max_shard_bytes: int = MAX_SHARD_BYTES,
    origin: str | None = None,
) -> None:
    """Does what `save_component` does, of parameters that are read one by one; `max_shard_bytes`
    and `origin` are those of `write_safetensors`."""
    folder.mkdir(parents=True, exist_ok=True)
    kind, abstract = KINDS[name], abstract_model(name, config)[1]
    write_safetensors(
        folder,
        export_params(kind.diffusers_table(config), params, abstract, dtype=dtype),
        max_shard_bytes=max_shard_bytes,
        basename=kind.basename,
        origin=origin,
    )
    write_config(folder, name, config)


def write_config(folder: pathlib.Path, name: str, config: Any) -> None:
    """Writes the config.json of component `name` in diffusers form."""
    kind = KINDS[name]
    write_json(folder / "config.json", {**kind.header, **kind.hints, **to_dict(config)})


def write_processor(folder: pathlib.Path, config: CLIPImageConfig) -> None:
    """Writes how images are prepared to the diffusers folder `folder`."""
    (folder / PROCESSOR).mkdir()
    path = folder / PROCESSOR / "preprocessor_config.json"
    write_json(path, preprocess.to_json(config))


def write_index(
    folder: pathlib.Path, *, scheduler: dict[str, Any] = SCHEDULER, pipeline: str = PIPELINES[0]
) -> None:
    """Writes model_index.json and the scheduler of a diffusers folder that has its tokenizer.

    An image-to-video folder must have its image encoder's configuration, too.
    """
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
    if pipeline == IMAGE_TO_VIDEO:
        (encoder,) = read_json(folder / "image_encoder" / "config.json")["architectures"]
        index["image_encoder"] = ["transformers", encoder]
        index["image_processor"] = ["transformers", "CLIPImageProcessor"]
    write_json(folder / "model_index.json", index)
