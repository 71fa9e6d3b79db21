"""Films that a text_to_video run makes of itself while it goes on."""

from collections.abc import Callable

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
from skyreels_jax.pipelines.defaults import toy_defaults
from skyreels_jax.pipelines.source import ModelSource, Modules
from skyreels_jax.training.config import TrainConfig
from skyreels_jax.training.writers import Image

FILMS = 4
FIRST = 200_000  # seed of the first held-out scene; benchmarks and motion learning have others


def film_sampler(config: TrainConfig) -> Callable[[Params], Image]:
    """Returns what makes a contact sheet of the films of a run's parameters.

    Sentences are held-out ones, always the same, and so is the noise; all else is as the finished
    model has it by default. The second sheet compiles nothing. Raises `UserError` where there is no
    VAE.
    """
    prompts = sentences(sample_scene(FIRST + i, "held_out") for i in range(FILMS))
    configs = {name: getattr(config.model, name) for name in TRAINED}
    graphdefs = {name: layout.abstract_model(name, configs[name])[0] for name in TRAINED}
    component = layout.read_component(vae_folder(config.data), "vae")
    vae = layout.load_component(component, dtype="float32")

    def sample(params: Params) -> Image:
        def read(dtype: str) -> Modules:
            there = jax.tree.map(jnp.asarray, cast(params, jnp.dtype(dtype), kept=in_float32))
            parts = {name: put_together(graphdefs[name], there[name]) for name in TRAINED}
            return parts | {"vae": vae}

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
