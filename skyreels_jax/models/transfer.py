"""Whole model folders from one form to the other, one tensor at a time, all or nothing."""

import contextlib
import os
import pathlib
import shutil
from collections.abc import Iterator
from typing import Any

from skyreels_jax.core.config import to_dict
from skyreels_jax.core.errors import UserError
from skyreels_jax.models.clip.preprocess import to_json
from skyreels_jax.models.dit.config import DiTConfig, from_official
from skyreels_jax.models.layout import (
    EXTRA,
    KINDS,
    MAX_SHARD_BYTES,
    SETTINGS,
    TOKENIZER,
    Component,
    ModelFolder,
    abstract_model,
    read_folder,
    write_config,
    write_index,
    write_json,
    write_processor,
)
from skyreels_jax.weights.convert import transcode
from skyreels_jax.weights.pth import require_torch, write_pth
from skyreels_jax.weights.reader import open_source
from skyreels_jax.weights.writer import Tensors, write_safetensors


def convert_folder(
    source: str | pathlib.Path,
    target: str | pathlib.Path,
    *,
    form: str,
    dtype: Any = None,
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> ModelFolder:
    """Writes the model in `source` to the new folder `target` in `form`, and returns that folder.

    Values are kept bit for bit unless `dtype` names another floating type. Everything is checked
    before anything is written, and `target` appears only when it is complete.
    Raises `UserError` for a source that is no complete model, a target that exists or cannot be
    written, an image encoder that the model does not use, and values that `dtype` cannot hold.
    """
    target = pathlib.Path(target)
    model = read_folder(source)
    encoders = ("image_encoder", KINDS["image_encoder"].official)
    unused = [name for name in encoders if (model.path / name).exists()]
    if unused and "image_encoder" not in model.components:
        raise UserError(f"{model.path}: {unused[0]} is no part of a {model.pipeline}; move it away")
    if target.exists():
        raise UserError(f"{target} exists; name a new folder")
    if form == "official":
        require_torch(target / KINDS["vae"].official)
        to_official(model.components["transformer"].config)
    streams = {name: _stream(part, form, dtype) for name, part in model.components.items()}
    with _appearing(target) as partial:
        write = _write_diffusers if form == "diffusers" else _write_official
        write(model, partial, streams, max_shard_bytes)
    return read_folder(target)


def copy_part(part: Component, folder: pathlib.Path) -> None:
    """Writes a component, in diffusers form and bit for bit, to its place in the new pipeline
    folder `folder`; a tensor at a time.
    """
    (folder / part.name).mkdir()
    write_safetensors(
        folder / part.name,
        _stream(part, "diffusers", None),
        max_shard_bytes=MAX_SHARD_BYTES,
        basename=KINDS[part.name].basename,
    )
    write_config(folder / part.name, part.name, part.config)


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
def _appearing(target: pathlib.Path) -> Iterator[pathlib.Path]:
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    try:
        partial.mkdir(parents=True)
        yield partial
        partial.rename(target)
    except OSError as error:
        raise UserError(f"cannot write {target}: {error.strerror or error}") from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _stream(part: Component, form: str, dtype: Any) -> Tensors:
    """Returns the tensors of `part` as `form` stores them, read when asked for; checks them now."""
    kind = KINDS[part.name]
    table = kind.diffusers_table if form == "diffusers" else kind.official_table
    return transcode(
        open_source(part.weights),
        part.table,
        table(part.config),
        abstract_model(part.name, part.config)[1],
        dtype=dtype,
    )


def _copy(model: ModelFolder, folder: pathlib.Path, form: str) -> None:
    shutil.copytree(model.tokenizer, folder / TOKENIZER[form])
    if (model.path / SETTINGS).is_file():
        shutil.copy(model.path / SETTINGS, folder / SETTINGS)


def _write_diffusers(
    model: ModelFolder, folder: pathlib.Path, streams: dict[str, Tensors], max_shard_bytes: int
) -> None:
    for name, part in model.components.items():
        (folder / name).mkdir()
        write_safetensors(
            folder / name,
            streams[name],
            max_shard_bytes=max_shard_bytes,
            basename=KINDS[name].basename,
        )
        write_config(folder / name, name, part.config)
    _copy(model, folder, "diffusers")
    if model.image_processor is not None:
        write_processor(folder, model.image_processor)
    write_index(folder, scheduler=model.scheduler, pipeline=model.pipeline)


def _write_official(
    model: ModelFolder, folder: pathlib.Path, streams: dict[str, Tensors], max_shard_bytes: int
) -> None:
    apart = [name for name in model.components if KINDS[name].official]
    for name in apart:
        write_pth(folder / KINDS[name].official, streams[name])
    write_safetensors(
        folder,
        streams["transformer"],
        max_shard_bytes=max_shard_bytes,
        basename="model",
    )
    _copy(model, folder, "official")
    configs = {name: part.config for name, part in model.components.items()}
    write_json(folder / "config.json", to_official(configs["transformer"]))
    unsaid = {name: to_dict(configs[name]) for name in apart}
    unsaid |= {"scheduler": model.scheduler, "pipeline": model.pipeline}
    if model.image_processor is not None:
        unsaid["image_processor"] = to_json(model.image_processor)
    write_json(folder / EXTRA, unsaid)
