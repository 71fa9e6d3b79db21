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
from skyreels_jax.pipelines.defaults import toy_defaults
from skyreels_jax.pipelines.fingerprint import weights_state
from skyreels_jax.pipelines.source import ModelSource, Modules

TRAINED = ("transformer", "text_encoder")
KINDS = ("text_to_video", "flow_dpo")
FORCING = "diffusion_forcing"  # the name of the objective


def open_run(path: pathlib.Path) -> ModelSource:
    """Returns the source in the newest checkpoint under `path`/checkpoints.

    The VAE is the one that the run's latents were made with. Raises `UserError` if there is no
    checkpoint, or the run trained something else.
    """
    step, config = _resolved_config(path)
    vae = layout.read_component(pathlib.Path(config["data"]["vae"]), "vae")
    configs = {
        name: from_dict(layout.KINDS[name].config, config["model"][name]) for name in TRAINED
    }
    configs["vae"] = vae.config

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
        defaults=toy_defaults(config),
        load_tokenizer=build_tokenizer,
        read=read,
        state=lambda: f"step {step} ".encode() + weights_state([vae.weights]),
        forcing=_objective(config).get("name") == FORCING,
    )


def _objective(config: dict[str, Any]) -> dict[str, Any]:
    """Returns the velocity objective of a run: its own, or the one whose times its pairs have."""
    objective = config.get("objective", {})
    return objective.get("velocity", objective)


def _resolved_config(path: pathlib.Path) -> tuple[int, dict[str, Any]]:
    with Checkpoints(path / "checkpoints") as checkpoints:
        step = checkpoints.latest()
        if step is None:
            raise UserError(f"no checkpoint under {path / 'checkpoints'} yet")
        config = checkpoints.config(step)
    if config.get("kind") not in KINDS:
        raise UserError(f"{path} trained a {config.get('kind')}; give a {' or '.join(KINDS)} run")
    return step, config
