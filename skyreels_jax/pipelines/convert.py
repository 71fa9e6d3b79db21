"""From any model to a folder in any form: model folders, training runs and their checkpoints."""

import pathlib
import shutil
from collections.abc import Mapping
from typing import Any

from skyreels_jax.checkpoint import find_checkpoint
from skyreels_jax.core.errors import UserError
from skyreels_jax.core.run_folder import is_checkpoint, is_run
from skyreels_jax.models import layout
from skyreels_jax.models.transfer import (
    Part,
    WholeModel,
    appearing,
    check_new,
    whole_model,
    write_model,
)
from skyreels_jax.pipelines import converted, load
from skyreels_jax.pipelines.defaults import write_defaults
from skyreels_jax.pipelines.lora import PART
from skyreels_jax.pipelines.run import (
    adapted_origin,
    has_adapters,
    model_configs,
    open_run,
    run_config,
    run_encoders,
    trained_adapter,
    trained_params,
)
from skyreels_jax.weights.lora import export_lora
from skyreels_jax.weights.writer import write_file

ADAPTER = "pytorch_lora_weights.safetensors"  # its name is diffusers' own
FILE = f"lora/{ADAPTER}"  # beside the model that has it merged


def convert(
    source: pathlib.Path,
    target: pathlib.Path,
    *,
    form: str,
    dtype: str | None = None,
    max_shard_bytes: int = layout.MAX_SHARD_BYTES,
    weights: str | None = None,
    lora: str | None = None,
) -> None:
    """Writes the model in `source` to the new folder `target`.

    source: a model folder (diffusers, official), the folder of a training run, or one of its
    checkpoints. form: "diffusers", "official", or "orbax" (`converted`).
    dtype: of the stored weights; None: as they are. Of a run, of what it trained: the rest stays.
    weights: "ema" or "raw", of a run; None: averaged ones if it kept them.
    lora: of a run that trained adapters: "merged" into what they are upon, and beside it (None as
    well), or "alone": `target` is the adapter's folder.
    Values pass through memory a tensor at a time, and `target` appears only when it is complete.
    Raises `UserError` where there is no such model, or none with such weights, `target` exists or
    cannot be written, and for what `form` and `dtype` cannot hold.
    """
    check_new(target)
    if not (is_run(source) or is_checkpoint(source)):
        for option, value in (("weights", weights), ("lora", lora)):
            if value is not None:
                raise UserError(f"--{option} {value}: {source} is no training run; leave it out")
        model = whole_model(layout.read_folder(source), dtype=dtype)
    else:
        named, source = source, find_checkpoint(source)  # once: a run may go on meanwhile
        if lora is not None and not has_adapters(run_config(source)[1]):
            raise UserError(f"--lora {lora}: {named} trained no adapters; leave it out")
        if lora == "alone":
            return _write_alone(source, target, form=form, dtype=dtype, weights=weights)
        model = run_model(source, dtype=dtype, weights=weights)
    options = {"max_shard_bytes": max_shard_bytes}
    if form != "orbax":
        return write_model(model, target, form=form, **options)
    origin = f"{load.find(str(source)).fingerprint} {weights} {dtype}"
    return converted.write_converted(model, target, origin=origin, **options)


def run_model(
    run: pathlib.Path,
    *,
    dtype: str | None = None,
    weights: str | None = None,
    config: Mapping[str, Any] | None = None,
) -> WholeModel:
    """Returns what a training run made, to be written; `dtype` and `weights` are as in `convert`.

    config: as in `open_run`, whose errors it raises.
    """
    run = find_checkpoint(run)
    own = run_config(run)[1]
    if own.get("kind") == converted.KIND:
        return converted.converted_model(run, dtype=dtype, weights=weights)
    config = own if config is None else config
    source, encoders = open_run(run, load.find, config=config), run_encoders(config)
    trained, scheduler = model_configs(config), layout.SCHEDULER
    origin = adapted_origin(run, weights)
    if encoders is not None:
        scheduler = encoders.folder.scheduler

    def write_rest(folder: pathlib.Path, tokenizer: pathlib.Path) -> None:
        if encoders is None:
            source.tokenizer.save_pretrained(tokenizer)
        else:
            shutil.copytree(encoders.folder.tokenizer, tokenizer)
        write_defaults(folder, source.defaults)
        _write_beside(run, folder, dtype=dtype, weights=weights)

    return WholeModel(
        parts={
            name: Part(
                config=source.configs[name],
                params=params,
                dtype=dtype if name in trained else None,
                origin=origin if name == PART else None,
            )
            for name, params in source.params(weights).items()
        },
        scheduler={**scheduler, "flow_shift": source.defaults.shift},
        pipeline=layout.PIPELINES[source.forcing],
        write_rest=write_rest,
    )


def write_trained(
    run: pathlib.Path, folder: pathlib.Path, *, dtype: str, config: Mapping[str, Any]
) -> None:
    """Writes what a training run trained, and nothing else, in diffusers form into `folder`.

    config: as in `open_run`, whose errors it raises.
    """
    run, configs = find_checkpoint(run), model_configs(config)
    origins = {PART: adapted_origin(run)}
    for name, params in trained_params(run, load.find, config=config).items():
        options = {"dtype": dtype, "origin": origins.get(name)}
        layout.write_component(folder / name, name, configs[name], params, **options)
    _write_beside(run, folder, dtype=dtype)


def write_adapter(
    run: pathlib.Path, file: pathlib.Path, *, dtype: str | None = None, weights: str | None = None
) -> None:
    """Writes the adapter of `run`, without what it was trained upon, to `file`."""
    part = model_configs(run_config(run)[1])[PART]
    abstract = layout.abstract_model(PART, part)[1]
    table = layout.KINDS[PART].diffusers_table(part)
    tensors = export_lora(trained_adapter(run, weights=weights), table, abstract, dtype=dtype)
    write_file(file, dict(tensors), metadata={"format": "pt"})


def _write_beside(
    run: pathlib.Path, folder: pathlib.Path, *, dtype: str | None, weights: str | None = None
) -> None:
    if has_adapters(run_config(run)[1]):
        (folder / FILE).parent.mkdir()
        write_adapter(run, folder / FILE, dtype=dtype, weights=weights)


def _write_alone(
    run: pathlib.Path, target: pathlib.Path, *, form: str, dtype: str | None, weights: str | None
) -> None:
    if form != "diffusers":
        raise UserError(f"--lora alone is written --to diffusers, not {form}")
    with appearing(target) as folder:
        write_adapter(run, folder / ADAPTER, dtype=dtype, weights=weights)
