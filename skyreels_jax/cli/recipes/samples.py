"""Films that a text_to_video run makes of itself while it goes on."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from skyreels_jax.cli.recipes.text_to_video import vae_folder
from skyreels_jax.core.config import to_dict
from skyreels_jax.core.tree import cast
from skyreels_jax.core.types import Params
from skyreels_jax.data.toy_film.captions import sentences
from skyreels_jax.data.toy_film.tokenizer import build_tokenizer
from skyreels_jax.data.toy_film.world import sample_scene
from skyreels_jax.evals.sheet import contact_sheet
from skyreels_jax.models import layout
from skyreels_jax.models.kinds import TRAINED, in_float32
from skyreels_jax.nn.whole import put_together
from skyreels_jax.objectives.diffusion_forcing import DiffusionForcing
from skyreels_jax.pipelines import load
from skyreels_jax.pipelines.defaults import toy_defaults
from skyreels_jax.pipelines.lora import PART
from skyreels_jax.pipelines.run import adapter_of
from skyreels_jax.pipelines.run_params import adapted_params, read_modules
from skyreels_jax.pipelines.source import NOWHERE, ModelSource, Modules
from skyreels_jax.training.config import TrainConfig
from skyreels_jax.training.writers import Image

FILMS = 4
FIRST = 200_000  # seed of the first held-out scene; benchmarks and motion learning have others


def film_sampler(config: TrainConfig) -> Callable[[Params], Image]:
    """Returns what makes a contact sheet of the films of a run's parameters; of adapters, upon the
    weights at `config.start`, which are read again for every sheet: nothing holds them in between.

    Sentences are held-out ones, always the same, and so is the noise; all else is as the finished
    model has it by default. The second sheet compiles nothing. Raises `UserError` where there is no
    VAE.
    """
    prompts = sentences(sample_scene(FIRST + i, "held_out") for i in range(FILMS))
    configs = {name: getattr(config.model, name) for name in TRAINED}
    put = _whole(configs) if config.lora is None else _adapted(config, configs)
    component = layout.read_component(vae_folder(config.data), "vae")
    vae = layout.load_component(component, dtype="float32")

    def sample(params: Params) -> Image:
        def read(dtype: str) -> Modules:
            return put(params, dtype) | {"vae": vae}

        source = ModelSource(
            model_id=config.out,
            configs={**configs, "vae": component.config},
            defaults=toy_defaults(to_dict(config)),
            load_tokenizer=build_tokenizer,
            read=read,
            # Nobody asks for single ones, and what tells these from those of other steps.
            params=lambda weights: {},
            state=bytes,
            forcing=isinstance(config.objective, DiffusionForcing),
        )
        films = source.load().generate(prompts, seed=list(range(FILMS)), batch_size=FILMS)
        return contact_sheet([film.frames for film in films], prompts)

    return sample


def _whole(configs: Mapping[str, Any]) -> Callable[[Params, str], Modules]:
    """Returns what makes modules of all their parameters."""
    graphdefs = {name: layout.abstract_model(name, configs[name])[0] for name in configs}

    def put(params: Params, dtype: str) -> Modules:
        there = jax.tree.map(jnp.asarray, cast(params, jnp.dtype(dtype), kept=in_float32))
        return {name: put_together(graphdefs[name], there[name]) for name in configs}

    return put


def _adapted(config: TrainConfig, configs: Mapping[str, Any]) -> Callable[[Params, str], Modules]:
    """Returns what makes modules of the parameters of adapters, merged as in the finished model."""
    base, scale = load.find(config.start), config.lora.alpha / config.lora.rank

    def put(params: Params, dtype: str) -> Modules:
        adapter = adapter_of(params[PART], scale=scale, name=config.out)
        merged = adapted_params(base, configs, adapter, fps=config.data.fps)
        return read_modules(merged, configs, dtype, TRAINED, NOWHERE)

    return put
