"""What a training run begins with: the weights of another run, or of any model."""

import pathlib
from typing import Any

import jax
from flax import nnx

from skyreels_jax.checkpoint import find_checkpoint, restore_params
from skyreels_jax.core.errors import UserError
from skyreels_jax.core.run_folder import is_checkpoint, is_run
from skyreels_jax.core.tree import matched
from skyreels_jax.core.types import Params
from skyreels_jax.data.toy_film.tokenizer import build_tokenizer
from skyreels_jax.models.dit.fps import fold_fps, tells_fps
from skyreels_jax.pipelines import load
from skyreels_jax.pipelines.run import run_config, trained_whole


def started(place: str, like: Params, *, fps: int = 0) -> Params:
    """Returns the weights at `place`, float32, as a tree like `like`, and where that says.

    place: the folder of a run here or one of its checkpoints (its averaged weights if it kept them,
    its adapters merged into what they were trained upon), or what
    `skyreels_jax.load` takes: "tiny", a folder in diffusers or official form, a hub id.
    A model without the embedding of frame rates may start from one with it, when all clips have
    `fps` frames a second: see `fold_fps`. Raises `UserError` if there is no such model.
    """

    def adapt(stored: Params) -> Params:
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
        print(f"start: the embedding of {fps} fps becomes part of time_proj's bias and is dropped")
        return {**stored, "transformer": fold_fps(stored["transformer"], fps)}

    check_start(place)
    path = pathlib.Path(place).expanduser()
    if (is_run(path) or is_checkpoint(path)) and trained_whole(run_config(path)[1]):
        return restore_params(path, like, adapt=adapt)
    return jax.tree.map(_moved, matched(adapt(_weights(place, like)), like, of=place), like)


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


def _moved(leaf: Any, like: Any) -> Any:
    sharding = getattr(like, "sharding", None)
    return leaf if sharding is None else jax.device_put(leaf, sharding)


def _weights(place: str, like: Params) -> Params:
    source = load.find(place)
    if "text_encoder" in like and source.tokenizer.get_vocab() != build_tokenizer().get_vocab():
        raise UserError(
            f"start: {place} reads other words than these captions are written in; training knows "
            "ToyFilm's captions only"
        )
    names = (
        tuple(like) if "transformer" in like else ("vae",)
    )  # the one other that is trained alone
    parts = {
        name: nnx.to_pure_dict(nnx.state(module, nnx.Param))
        for name, module in source.read("float32", names).items()
    }
    return parts if "transformer" in like else parts["vae"]
