"""Films that a text_to_video run makes of itself while it goes on."""

from collections.abc import Callable

from skyreels_jax.cli.recipes.text_to_video import vae_folder
from skyreels_jax.core.config import to_dict
from skyreels_jax.core.types import Params
from skyreels_jax.data.toy_film.captions import sentences
from skyreels_jax.data.toy_film.world import sample_scene
from skyreels_jax.evals.sheet import contact_sheet
from skyreels_jax.pipelines import load
from skyreels_jax.pipelines.lora import PART
from skyreels_jax.pipelines.run import adapter_of, model_configs, source_of
from skyreels_jax.pipelines.run_params import adapted_params
from skyreels_jax.pipelines.source import ModelSource
from skyreels_jax.training.config import TrainConfig
from skyreels_jax.training.writers import Image
from skyreels_jax.weights.params import ParamSource, TreeParams

FILMS = 4
FIRST = 200_000  # seed of the first held-out scene; benchmarks and motion learning have others


def film_sampler(config: TrainConfig) -> Callable[[Params], Image]:
    """Returns what makes a contact sheet of the films of a run's parameters; of adapters, upon the
    weights at `config.start`.

    Films are of `config.sample_prompts`, or held-out sentences of ToyFilm, always the same, and so
    is the noise; all else is as the finished model has it by default. What the run does not train
    is read again for every sheet: nothing holds it in between. The second sheet compiles nothing.
    Raises `UserError` where what its data were made with, VAE and text encoder, is not there.
    """
    held_out = sentences(sample_scene(FIRST + i, "held_out") for i in range(FILMS))
    prompts = list(config.sample_prompts) or held_out
    said = to_dict(config)
    parts = TreeParams.of if config.lora is None else _adapted(config)

    def source(params: Params) -> ModelSource:
        def trained(weights: str | None) -> dict[str, ParamSource]:
            return parts(params)

        # Nobody asks what tells these weights from those of other steps.
        return source_of(said, model_id=config.out, trained=trained, state=lambda frozen: b"")

    if not config.data.features:
        vae_folder(config.data)  # says what to train first
    source({})  # refuses now what it would later

    def sample(params: Params) -> Image:
        model = source(params).load()
        films = model.generate(prompts, seed=list(range(len(prompts))))
        return contact_sheet([film.frames for film in films], prompts)

    return sample


def _adapted(config: TrainConfig) -> Callable[[Params], dict[str, ParamSource]]:
    """Returns what merges the parameters of adapters as in the finished model."""
    base, configs = load.find(config.start), model_configs(to_dict(config))
    scale = config.lora.alpha / config.lora.rank

    def merged(params: Params) -> dict[str, ParamSource]:
        adapter = adapter_of(params[PART], scale=scale, name=config.out)
        return adapted_params(base, configs, adapter, fps=config.data.fps)

    return merged
