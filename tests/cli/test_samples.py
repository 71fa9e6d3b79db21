"""Films of a run on the way: fixed sentences and noise, and nothing compiled the second time."""

import jax
import numpy as np
import pytest
from flax import nnx

from skyreels_jax.cli.recipes.model import split
from skyreels_jax.cli.recipes.samples import film_sampler
from skyreels_jax.cli.recipes.text_to_video import TextToVideoConfig, TextToVideoRecipe
from skyreels_jax.core.errors import UserError
from skyreels_jax.objectives.flow_matching import FlowMatching
from skyreels_jax.pipelines import load
from skyreels_jax.testing.micro import micro_configs
from skyreels_jax.training.config import (
    DataConfig,
    LoraConfig,
    OptimizerConfig,
    StageConfig,
    TrainConfig,
)

PARTS = ("transformer", "text_encoder")
LOWERED = "/jax/core/compile/jaxpr_to_mlir_module_duration"


def config(folder, **options):
    return TrainConfig(
        out="run",
        model=TextToVideoConfig(**{name: micro_configs()[name] for name in PARTS}),
        objective=FlowMatching(),
        data=DataConfig(num_frames=5, vae=str(folder / "vae")),
        stages=(StageConfig(steps=1, batch=1),),
        optimizer=OptimizerConfig(),
        sample_every=10,
        **{"kind": "text_to_video", **options},
    )


def test_the_same_films_of_the_same_weights_and_nothing_compiled_twice(micro_folder):
    settings = config(micro_folder)
    params = nnx.to_pure_dict(nnx.state(TextToVideoRecipe().make(settings, nnx.Rngs(0)), nnx.Param))
    later = jax.tree.map(lambda leaf: leaf + 0.1, params)  # the head of a new model is zero
    sample, lowered = film_sampler(settings), []
    first = sample(params)

    def listen(name, seconds, **_):
        if name == LOWERED:
            lowered.append(seconds)

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        again, other = sample(params), sample(later)
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
    np.testing.assert_array_equal(first, again)
    assert other.shape == first.shape and (other != first).any()
    assert not lowered


def test_films_of_adapters_are_those_of_the_model_below_them_with_what_they_change(micro_folder):
    start = {"start": str(micro_folder)}
    whole = config(micro_folder, **start)
    modules = load.find(str(micro_folder)).read("float32", PARTS)
    weights = {name: nnx.to_pure_dict(nnx.state(part)) for name, part in modules.items()}
    adapted = config(micro_folder, lora=LoraConfig(rank=2, alpha=3.0), **start)
    params = split(TextToVideoRecipe(), adapted)[1]
    sample, plain = film_sampler(adapted), film_sampler(whole)
    np.testing.assert_array_equal(sample(params), before := plain(weights))  # `up` is zero yet
    q = params["transformer"]["blocks"]["attn1"]["q"]["adapter"]
    up = q["up"]["kernel"] = q["up"]["kernel"] + 0.5
    changed = 1.5 * q["down"]["kernel"] @ up
    weights["transformer"]["blocks"]["attn1"]["q"]["kernel"] += changed
    after = plain(weights)
    assert (after != before).any()
    np.testing.assert_allclose(sample(params), after, atol=1)  # of 255


@pytest.mark.parametrize("options", [{"kind": "flow_dpo"}, {"kind": "vae"}])
def test_what_cannot_be_sampled_is_refused(micro_folder, options):
    with pytest.raises(UserError, match="sample_every: legal are 0"):
        config(micro_folder, **options)
