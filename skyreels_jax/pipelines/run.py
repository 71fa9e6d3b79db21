"""A model straight from the checkpoints of a training run: its averaged weights, if any."""

import pathlib
from typing import Any

import jax
from flax import nnx

from skyreels_jax.checkpoint import Checkpoints, restore_params
from skyreels_jax.core.config import from_dict
from skyreels_jax.core.errors import UserError
from skyreels_jax.data.toy_film.tokenizer import build_tokenizer
from skyreels_jax.models import layout
from skyreels_jax.pipelines.source import ModelSource, Modules, weights_state
from skyreels_jax.pipelines.validate import Defaults

TRAINED = ("transformer", "text_encoder")


def open_run(path: pathlib.Path) -> ModelSource:
    """Returns the source in the newest checkpoint under `path`/checkpoints.

    The VAE is the one that the run's latents were made with. Raises `UserError` if there is no
    checkpoint, or the run trained something else.
    """
    step, config = _resolved_config(path)
    folder = pathlib.Path(config["data"]["vae"])
    if not (folder / "config.json").is_file():
        raise UserError(f"{path} was trained on latents of the VAE in {folder}, which is not there")
    configs = {name: _config(name, config["model"][name]) for name in TRAINED}
    configs["vae"] = _config("vae", layout.read_json(folder / "config.json"))
    table = layout.KINDS["vae"].diffusers_table(configs["vae"])
    vae = layout.Component(name="vae", config=configs["vae"], table=table, weights=folder)

    def read(dtype: str) -> Modules:
        made = {name: layout.abstract_model(name, configs[name]) for name in TRAINED}
        like = {name: abstract for name, (_, abstract) in made.items()}
        params = restore_params(path / "checkpoints", like)
        params = jax.tree.map(lambda leaf: leaf.astype(dtype), params)
        modules = {name: nnx.merge(made[name][0], params[name]) for name in TRAINED}
        return {**modules, "vae": layout.load_component(vae, dtype="float32")}

    return ModelSource(
        model_id=str(path.resolve()),
        configs=configs,
        defaults=toy_defaults(config["data"], shift=config["flow_shift"]),
        load_tokenizer=build_tokenizer,
        read=read,
        state=lambda: f"step {step} ".encode() + weights_state([folder]),
    )


def toy_defaults(data: dict[str, Any], *, shift: float) -> Defaults:
    """Returns what a model trained on ToyFilm makes: clips like those it was trained on."""
    return Defaults(
        num_frames=data["num_frames"],
        height=data["size"],
        width=data["size"],
        fps=12.0,
        inference_steps=25,
        guidance_scale=4.0,
        shift=shift,
        negative_prompt="",
        batch_size=8,
    )


def _resolved_config(path: pathlib.Path) -> tuple[int, dict[str, Any]]:
    with Checkpoints(path / "checkpoints") as checkpoints:
        step = checkpoints.latest()
        if step is None:
            raise UserError(f"no checkpoint under {path / 'checkpoints'} yet")
        config = checkpoints.config(step)
    if config.get("kind") != "text_to_video":
        raise UserError(f"{path} trained a {config.get('kind')}; give a text_to_video run")
    return step, config


def _config(name: str, values: dict[str, Any]) -> Any:
    kind = layout.KINDS[name]
    return from_dict(kind.config, values, ignore=kind.ignored)
