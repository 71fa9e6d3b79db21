"""Whole models to folders of either form, one tensor at a time, all or nothing."""

import contextlib
import dataclasses
import os
import pathlib
import shutil
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from skyreels_jax.core.config import to_dict
from skyreels_jax.core.errors import UserError
from skyreels_jax.models.clip.preprocess import CLIPImageConfig, to_json
from skyreels_jax.models.dit.config import DiTConfig, from_official
from skyreels_jax.models.layout import (
    EXTRA,
    KINDS,
    MAX_SHARD_BYTES,
    SETTINGS,
    TOKENIZER,
    ModelFolder,
    abstract_model,
    stored_params,
    write_component,
    write_index,
    write_json,
    write_processor,
)
from skyreels_jax.weights.export import Tensors, export_params
from skyreels_jax.weights.params import ParamSource
from skyreels_jax.weights.pth import require_torch, write_pth
from skyreels_jax.weights.reader import stored_origin
from skyreels_jax.weights.writer import write_safetensors


@dataclasses.dataclass(frozen=True, kw_only=True)
class Part:
    """A component to be written; `dtype` is the type of its floating tensors (None: theirs),
    `origin` as in `write_safetensors`."""

    config: Any
    params: ParamSource
    dtype: Any = None
    origin: str | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class WholeModel:
    """All that a model folder is written from.

    write_rest: (folder, where its tokenizer goes) -> None; writes the tokenizer, and what the form
    does not ask for. image_processor: of an image-to-video model.
    """

    parts: Mapping[str, Part]
    scheduler: dict[str, Any]
    pipeline: str
    write_rest: Callable[[pathlib.Path, pathlib.Path], None]
    image_processor: CLIPImageConfig | None = None


def whole_model(folder: ModelFolder, *, dtype: Any = None) -> WholeModel:
    """Returns what `folder` holds; its weights are read when they are written.

    dtype: of its floating tensors; None: as they are. Raises `UserError` for an image encoder that
    the model does not use.
    """
    encoders = ("image_encoder", KINDS["image_encoder"].official)
    unused = [name for name in encoders if (folder.path / name).exists()]
    if unused and "image_encoder" not in folder.components:
        raise UserError(
            f"{folder.path}: {unused[0]} is no part of a {folder.pipeline}; move it away"
        )

    def write_rest(target: pathlib.Path, tokenizer: pathlib.Path) -> None:
        shutil.copytree(folder.tokenizer, tokenizer)
        if (folder.path / SETTINGS).is_file():
            shutil.copy(folder.path / SETTINGS, target / SETTINGS)

    return WholeModel(
        parts={
            name: Part(
                config=part.config,
                params=stored_params(part),
                dtype=dtype,
                origin=stored_origin(part.weights),
            )
            for name, part in folder.components.items()
        },
        scheduler=folder.scheduler,
        pipeline=folder.pipeline,
        write_rest=write_rest,
        image_processor=folder.image_processor,
    )


def write_model(
    model: WholeModel,
    target: str | pathlib.Path,
    *,
    form: str,
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> None:
    """Writes `model` to the new folder `target` in `form` ("diffusers" or "official").

    Everything is checked before anything is written, and `target` appears only when it is complete.
    Raises `UserError` for a target that exists or cannot be written, and for what the form or the
    types of the parts cannot hold.
    """
    target = pathlib.Path(target)
    check_new(target)
    if form == "official":
        require_torch(target / KINDS["vae"].official)
        to_official(model.parts["transformer"].config)
    with appearing(target) as partial:
        write = write_diffusers if form == "diffusers" else _write_official
        write(model, partial, max_shard_bytes=max_shard_bytes)


def check_new(target: pathlib.Path) -> None:
    """Raises `UserError` where `target` exists."""
    if target.exists():
        raise UserError(f"{target} exists; name a new folder")


def to_official(config: DiTConfig) -> dict[str, Any]:
    """Returns the official config.json; raises `UserError` for what has no place in it."""
    values = {
        "model_type": "t2v" if config.image_dim is None else "i2v",
        "patch_size": list(config.patch_size),
        "in_dim": config.in_channels,
        "dim": config.width,
        "ffn_dim": config.ffn_dim,
        "freq_dim": config.freq_dim,
        "text_dim": config.text_dim,
        "out_dim": config.out_channels or config.in_channels,
        "num_heads": config.num_attention_heads,
        "num_layers": config.num_layers,
        "cross_attn_norm": config.cross_attn_norm,
        "inject_sample_info": config.inject_sample_info,
        "eps": config.eps,
    }
    back = from_official(values)
    lost = [
        f"{name}={value!r}"
        for name, value in vars(config).items()
        if name != "out_channels" and value != getattr(back, name)
    ]
    if lost:
        raise UserError(f"the official config.json has no place for {', '.join(lost)}")
    return {"_class_name": "WanModel", "text_len": 512, "qk_norm": True, **values}


@contextlib.contextmanager
def appearing(target: pathlib.Path) -> Iterator[pathlib.Path]:
    """Gives an empty folder that becomes `target` when all went well, and else is removed.

    Raises `UserError` where it cannot be written.
    """
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    try:
        partial.mkdir(parents=True)
        yield partial
        partial.rename(target)
    except OSError as error:
        raise UserError(f"cannot write {target}: {error.strerror or error}") from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def write_diffusers(
    model: WholeModel, folder: pathlib.Path, *, max_shard_bytes: int = MAX_SHARD_BYTES
) -> None:
    """Writes `model` in diffusers form into the empty `folder`."""
    for name, part in model.parts.items():
        options = {"dtype": part.dtype, "origin": part.origin, "max_shard_bytes": max_shard_bytes}
        write_component(folder / name, name, part.config, part.params, **options)
    write_small_files(model, folder)


def write_small_files(model: WholeModel, folder: pathlib.Path) -> None:
    """Writes all of the diffusers form but the components, whose configurations must be there."""
    model.write_rest(folder, folder / TOKENIZER["diffusers"])
    if model.image_processor is not None:
        write_processor(folder, model.image_processor)
    write_index(folder, scheduler=model.scheduler, pipeline=model.pipeline)


def _write_official(model: WholeModel, folder: pathlib.Path, *, max_shard_bytes: int) -> None:
    apart = [name for name in model.parts if KINDS[name].official]
    for name in apart:
        write_pth(folder / KINDS[name].official, _official_tensors(name, model.parts[name]))
    write_safetensors(
        folder,
        _official_tensors("transformer", model.parts["transformer"]),
        max_shard_bytes=max_shard_bytes,
        basename="model",
        origin=model.parts["transformer"].origin,
    )
    model.write_rest(folder, folder / TOKENIZER["official"])
    configs = {name: part.config for name, part in model.parts.items()}
    write_json(folder / "config.json", to_official(configs["transformer"]))
    unsaid = {name: to_dict(configs[name]) for name in apart}
    unsaid |= {"scheduler": model.scheduler, "pipeline": model.pipeline}
    if model.image_processor is not None:
        unsaid["image_processor"] = to_json(model.image_processor)
    write_json(folder / EXTRA, unsaid)


def _official_tensors(name: str, part: Part) -> Tensors:
    table, abstract = KINDS[name].official_table(part.config), abstract_model(name, part.config)[1]
    return export_params(table, part.params, abstract, dtype=part.dtype)
