"""Operations of a whole step by formula against the compiler's count."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from skyreels_jax.cli.recipes.flow_dpo import FlowDPORecipe
from skyreels_jax.cli.recipes.text_to_video import TextToVideoConfig, TextToVideoRecipe
from skyreels_jax.models.dit.config import DiTConfig
from skyreels_jax.models.umt5.config import UMT5Config
from skyreels_jax.objectives.chosen import Chosen
from skyreels_jax.objectives.flow_dpo import FlowDPO
from skyreels_jax.objectives.flow_matching import FlowMatching
from skyreels_jax.training.config import (
    DataConfig,
    LoraConfig,
    OptimizerConfig,
    PolicyConfig,
    StageConfig,
    TrainConfig,
)
from skyreels_jax.training.optimizer import is_trained, make_optimizer
from skyreels_jax.training.state import init_state
from skyreels_jax.training.step import make_train_step

MODEL = TextToVideoConfig(
    transformer=DiTConfig(
        num_attention_heads=4, attention_head_dim=64, in_channels=4, out_channels=4, text_dim=256,
        ffn_dim=1024, num_layers=1,
    ),
    text_encoder=UMT5Config(
        vocab_size=64, d_model=256, d_kv=64, d_ff=512, num_layers=1, num_heads=4
    ),
)  # fmt: skip
LATENTS, TOKENS = (2, 4, 16, 16, 4), 64


def config(objective, frozen=()):
    policies = tuple(PolicyConfig(paths=paths, frozen=True) for paths in frozen)
    return TrainConfig(
        kind="text_to_video",
        out="unused",
        model=MODEL,
        objective=objective,
        data=DataConfig(),
        stages=(StageConfig(steps=1, batch=2),),
        optimizer=OptimizerConfig(name="adam", policies=policies),
    )


def batch(*names):
    cond = {
        "input_ids": jax.ShapeDtypeStruct((2, TOKENS), jnp.int32),
        "length": jax.ShapeDtypeStruct((2,), jnp.int32),
    }
    films = {name: jax.ShapeDtypeStruct(LATENTS, jnp.float32) for name in names}
    return {**films, "cond": cond, "null_cond": cond}


def counted(recipe, config, batch):
    """The compiler's count of a step, and the formula's."""

    def make():
        graphdef, params, rest = nnx.split(recipe.make(config, nnx.Rngs(0)), nnx.Param, ...)
        return graphdef, nnx.to_pure_dict(params), rest

    graphdef, params, rest = nnx.eval_shape(make)
    tx = make_optimizer(config.optimizer, params, 1)
    trained = is_trained(config.optimizer)
    step = make_train_step(config.objective, tx, graphdef, seed=0, trained=trained)
    state = jax.eval_shape(lambda p: init_state(p, tx, ema=False), params)
    frozen = params if isinstance(config.objective, FlowDPO) else None
    program = jax.jit(step).lower(state, batch, rest, frozen).compile()
    return program.cost_analysis()["flops"], recipe.flops(config, params)(batch)


@pytest.mark.parametrize(
    "recipe, objective, frozen",
    [
        (TextToVideoRecipe(), FlowMatching(), ()),
        (TextToVideoRecipe(), FlowMatching(), ("text_encoder/.*",)),
        (FlowDPORecipe(), FlowDPO(), ()),
        (FlowDPORecipe(), Chosen(), ("text_encoder/.*",)),
    ],
    ids=["all", "frozen text encoder", "pairs", "the chosen of pairs"],
)
def test_a_step_within_ten_percent_of_the_compilers_count(recipe, objective, frozen):
    names = ("latents",) if type(recipe) is TextToVideoRecipe else ("chosen", "rejected")
    compiler, formula = counted(recipe, config(objective, frozen), batch(*names))
    assert formula == pytest.approx(compiler, rel=0.1)


def test_adapters_need_no_gradient_of_the_weights():
    full = config(FlowMatching())
    lora = dataclasses.replace(full, start="tiny", lora=LoraConfig(rank=4, alpha=4.0))
    params = nnx.to_pure_dict(
        nnx.eval_shape(lambda: nnx.state(TextToVideoRecipe().make(full, nnx.Rngs(0)), nnx.Param))
    )
    whole, adapters = (TextToVideoRecipe().flops(c, params)(batch("latents")) for c in (full, lora))
    assert 0.6 * whole < adapters < 0.67 * whole
