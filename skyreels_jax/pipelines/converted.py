"""Models whose trained parts lie in a checkpoint: what `skyreels-jax convert --to orbax` makes.

Such a folder is a diffusers folder, but for the weights of transformer and text encoder: they are
in checkpoints/0, as a training run would have left them. A run may `start` from it, and it is
loaded as any other model.
"""

import dataclasses
import pathlib
from collections.abc import Collection
from typing import Any

import jax

from skyreels_jax.checkpoint import Checkpoints, Leaf, find_checkpoint, write_checkpoint
from skyreels_jax.core.tree import path_name
from skyreels_jax.core.types import Params
from skyreels_jax.models import layout
from skyreels_jax.models.kinds import TRAINED
from skyreels_jax.models.transfer import (
    Part,
    WholeModel,
    appearing,
    check_new,
    whole_model,
    write_small_files,
)
from skyreels_jax.pipelines.run_params import read_modules, whole_params
from skyreels_jax.pipelines.source import NOWHERE, ModelSource, Modules, Places, open_folder
from skyreels_jax.weights.convert import cast, target_dtype
from skyreels_jax.weights.params import ParamSource

KIND = "converted"  # in place of the kind of a run


def write_converted(
    model: WholeModel,
    target: pathlib.Path,
    *,
    origin: str,
    max_shard_bytes: int = layout.MAX_SHARD_BYTES,
) -> None:
    """Writes `model` to the new folder `target`, a tensor or a few at a time.

    max_shard_bytes: of the other parts. origin: tells these weights from others.
    Raises `UserError` as `transfer.write_model` does.
    """
    check_new(target)
    with appearing(target) as folder:
        for name, part in model.parts.items():
            if name in TRAINED:
                (folder / name).mkdir()
                layout.write_config(folder / name, name, part.config)
            else:
                options = {"dtype": part.dtype, "max_shard_bytes": max_shard_bytes}
                layout.write_component(folder / name, name, part.config, part.params, **options)
        write_small_files(model, folder)
        leaves = {name: _leaves(name, model.parts[name]) for name in TRAINED}
        config = {"kind": KIND, "origin": origin}
        write_checkpoint(folder / "checkpoints", leaves, config=config)


def _leaves(name: str, part: Part) -> Params:
    def leaf(path: tuple, like: Any) -> Leaf:
        where = path_name(path)
        kind = target_dtype(part.params.dtype(where), part.dtype)
        return Leaf(
            shape=like.shape,
            dtype=kind,
            read=lambda index: part.params.read(where, index),
            cast=lambda array: cast(where, array, kind),
        )

    return jax.tree_util.tree_map_with_path(leaf, layout.abstract_model(name, part.config)[1])


def converted_model(
    path: pathlib.Path, *, dtype: Any = None, weights: str | None = None
) -> WholeModel:
    """Returns what `write_converted` wrote to `path`, to be written in other forms."""
    folder = layout.read_folder(find_checkpoint(path).parents[1])
    apart = dataclasses.replace(folder, components=_apart(folder))
    configs = _configs(folder)
    stored = whole_params(find_checkpoint(path), configs, weights)
    trained = {
        name: Part(config=configs[name], params=stored[name], dtype=dtype) for name in TRAINED
    }
    whole = whole_model(apart, dtype=dtype)
    return dataclasses.replace(whole, parts={**trained, **whole.parts})


def open_converted(path: pathlib.Path) -> ModelSource:
    """Returns what `write_converted` wrote to `path`, to be loaded.

    Raises `UserError` for a folder of which parts are missing.
    """
    checkpoint = find_checkpoint(path)
    root = checkpoint.parents[1]
    folder = layout.read_folder(root)
    apart, configs = _apart(folder), _configs(folder)

    def params(weights: str | None) -> dict[str, ParamSource]:
        rest = {name: layout.stored_params(part) for name, part in apart.items()}
        return {**whole_params(checkpoint, configs, weights), **rest}

    def state() -> bytes:
        with Checkpoints(checkpoint.parent) as checkpoints:
            return checkpoints.config(int(checkpoint.name))["origin"].encode()

    source = open_folder(str(root.resolve()), root)

    def read(
        dtype: str,
        names: Collection[str] = tuple(source.configs),
        *,
        places: Places = NOWHERE,
    ) -> Modules:
        return read_modules(params(None), source.configs, dtype, names, places)

    return dataclasses.replace(source, read=read, params=params, state=state)


def _apart(folder: layout.ModelFolder) -> dict[str, layout.Component]:
    return {name: part for name, part in folder.components.items() if name not in TRAINED}


def _configs(folder: layout.ModelFolder) -> dict[str, Any]:
    return {name: folder.components[name].config for name in TRAINED}
