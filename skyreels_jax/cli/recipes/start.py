"""What a training run begins with: the weights of another run, or of any model."""

import functools
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from skyreels_jax.checkpoint import CheckpointParams, Leaf, find_checkpoint, placed
from skyreels_jax.core.errors import UserError
from skyreels_jax.core.run_folder import is_checkpoint, is_run
from skyreels_jax.core.tree import matched, path_name
from skyreels_jax.core.types import Params
from skyreels_jax.data.toy_film.tokenizer import build_tokenizer
from skyreels_jax.models import layout
from skyreels_jax.models.dit.fps import fold_fps, tells_fps, without_fps
from skyreels_jax.parallel import hosts
from skyreels_jax.pipelines import load
from skyreels_jax.pipelines.run import run_config, trained_whole
from skyreels_jax.pipelines.source import ModelSource


def started(place: str, like: Params, *, fps: int = 0) -> Params:
    """Returns the weights at `place`, float32, as a tree like `like`, and where that says.

    place: the folder of a run here or one of its checkpoints (its averaged weights if it kept them,
    its adapters merged into what they were trained upon), or what
    `skyreels_jax.load` takes: "tiny", a folder in diffusers or official form, a hub id.
    A model without the embedding of frame rates may start from one with it, when all clips have
    `fps` frames a second: see `fold_fps`. Raises `UserError` if there is no such model.
    """
    check_start(place)

    def fold(transformer: Params) -> Params:
        print(f"start: the embedding of {fps} fps becomes part of time_proj's bias and is dropped")
        return fold_fps(transformer, fps)

    stored, name = _stored(place, like)
    found = matched(_adapted(stored, like, fold, place=place, fps=fps), like, of=name)
    return jax.tree.map(lambda leaf, to: placed(leaf, to, np.float32), found, like)


def check_model(place: str, like: Params, *, fps: int = 0) -> None:
    """Raises `UserError` where `started` would: there is no model at `place`, or another one. Reads
    no weights; what is on the hub is downloaded.
    """
    check_start(place)
    stored, name = _stored(place, like)
    matched(_adapted(stored, like, without_fps, place=place, fps=fps), like, of=name)


def settled(place: str) -> str:
    """Returns `place`, of a run its newest checkpoint: what it begins with stays the same while the
    run there goes on, and is the same to all processes.

    Raises `UserError` as `check_start` does.
    """
    check_start(place)
    path = pathlib.Path(place).expanduser()
    if not is_run(path):
        return place
    found = path / "checkpoints" / str(hosts.agreed(int(find_checkpoint(path).name)))
    print(f"start: {found}")
    return str(found)


def check_start(place: str) -> None:
    """Raises `UserError` where there is nothing to start from at `place`, nor could be on the hub;
    reads no weights.
    """
    path = pathlib.Path(place).expanduser()
    if is_run(path) or is_checkpoint(path):
        find_checkpoint(path)
    elif path.is_dir():
        load.find(place)
    elif place != load.TINY:
        like_hub = load.HUB_ID.fullmatch(place)
        if like_hub and not path.parent.is_dir():
            return
        but = f", which this is not, for there is a folder {path.parent}" if like_hub else ""
        raise UserError(
            f"start: {place} holds no checkpoints; train that run first (legal as well: "
            f"{load.TINY!r}, a model folder, a hub id{but})"
        )


def _stored(place: str, like: Params) -> tuple[Params, str]:
    """Returns what there is at `place` of the models that `like` has, to be read leaf by leaf, and
    a name for it.
    """
    path = pathlib.Path(place).expanduser()
    if (is_run(path) or is_checkpoint(path)) and trained_whole(run_config(path)[1]):
        stored = CheckpointParams(find_checkpoint(path))
        return stored.tree(), f"the checkpoint {stored.name}"
    source = load.find(place)
    _check_words(source, like)
    if "transformer" not in like:  # the one other that is trained alone
        return _part(source, "vae"), place
    return {name: _part(source, name) for name in like if name in source.configs}, place


def _part(source: ModelSource, name: str) -> Params:
    params = source.params(None)[name]

    def leaf(path: tuple, like: Any) -> Leaf:
        where = path_name(path)
        read = functools.partial(params.read, where)
        return Leaf(shape=like.shape, dtype=params.dtype(where), read=read)

    abstract = layout.abstract_model(name, source.configs[name])[1]
    return jax.tree_util.tree_map_with_path(leaf, abstract)


def _check_words(source: ModelSource, like: Params) -> None:
    if "text_encoder" in like and source.tokenizer.get_vocab() != build_tokenizer().get_vocab():
        raise UserError(
            f"start: {source.model_id} reads other words than these captions are written in; "
            "training knows ToyFilm's captions only"
        )


def _adapted(
    stored: Params, like: Params, fold: Callable[[Params], Params], *, place: str, fps: int
) -> Params:
    """Returns of `stored` what `like` has, after `fold` of a transformer that is told frame rates
    where that of `like` is not.
    """
    if "transformer" in like:  # a run without a text encoder may start from one with it
        stored = {name: part for name, part in stored.items() if name in like}
    ours = like.get("transformer")
    if ours is None or tells_fps(ours) or not tells_fps(stored.get("transformer", {})):
        return stored
    if not fps:
        raise UserError(
            f"start: the model of {place} has an fps embedding. To drop it, give data.fps, "
            "the one rate of this run's clips; to keep it, "
            "model.transformer.inject_sample_info=True"
        )
    return {**stored, "transformer": fold(stored["transformer"])}
