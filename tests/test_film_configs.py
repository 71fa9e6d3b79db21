"""The configs of the full-size stages: all resolve, each goes on from the one before."""

import math
import pathlib

import jax
import pytest

from skyreels_jax.cli.recipes.model import abstract_weights
from skyreels_jax.cli.train import read_config, resolved
from skyreels_jax.core.errors import UserError
from skyreels_jax.data.buckets import buckets
from skyreels_jax.models.dit.config import CONFIGS

FOLDER = pathlib.Path(__file__).parents[1] / "configs" / "film"
CHAIN = (
    "pretrain_256p",
    "pretrain_256p_settled",
    "pretrain_360p",
    "pretrain_540p",
    "sft_540p",
    "diffusion_forcing_540p",
    "sft_720p",
)
RELEASED = {"1.3b": "SkyReels-V2-T2V-1.3B-540P", "14b": "SkyReels-V2-DF-14B-720P"}


def config_of(name: str, size: str):
    return resolved(read_config(f"{FOLDER / name}.py:{size}"), ())


def test_every_file_is_in_the_chain():
    assert {path.stem for path in FOLDER.glob("*.py")} == set(CHAIN)


@pytest.mark.parametrize("size", RELEASED)
def test_each_stage_starts_from_the_one_before(size):
    before = ""
    for name in CHAIN:
        config = config_of(name, size)[1]
        assert config.start == before
        before = config.out
        assert name in config.out and size in config.out


def test_learning_rates_and_decays_of_the_paper():
    found = {name: config_of(name, "14b")[1].optimizer for name in CHAIN}
    rates = [found[name].adam_learning_rate for name in CHAIN[:4]]
    assert rates == [1e-4, 5e-5, 2e-5, 2e-5]
    assert [found[name].weight_decay for name in CHAIN[:2]] == [0.0, 1e-4]
    assert {one.name for one in found.values()} == {"adam"}


@pytest.mark.parametrize("size", RELEASED)
def test_tokens_and_times_are_as_the_files_say(size):
    """As many tokens a step while pretraining, half while fine-tuning; times are shifted by the
    root of how many more tokens a frame has.
    """
    first = None
    for name in CHAIN:
        config = config_of(name, size)[1]
        (stage,) = config.stages
        largest = buckets(stage.resolution, stage.frames)[-1]
        frame = largest.tokens / largest.latents[0]
        first = first or frame
        assert config.objective.shift == pytest.approx(math.sqrt(frame / first), abs=0.06), name
        wanted = 3.45e6 if name.startswith("sft") else 6.2e6
        assert stage.batch * largest.tokens == pytest.approx(wanted, rel=0.08), name


@pytest.mark.parametrize("name", CHAIN)
def test_what_the_paper_does_not_say_is_marked(name):
    said = (FOLDER / f"{name}.py").read_text("utf-8").partition('"""\n\nimport')[0]
    paper, mark, ours = said.partition("Our choice, since the paper does not say")
    assert mark and "By the paper" in paper
    assert ("weight decay" in ours) == (not name.startswith("pretrain_256p"))
    assert "steps" in ours


@pytest.mark.parametrize("size", RELEASED)
def test_the_last_stage_is_a_released_model(size):
    recipe, config = config_of("sft_720p", size)
    assert config.model.transformer == CONFIGS[RELEASED[size]]
    params = abstract_weights(recipe, config)
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jax.numpy.dtype("float32")}


def test_unknown_sizes():
    with pytest.raises(UserError, match="legal: 1.3b, 14b|did you mean"):
        read_config(f"{FOLDER / 'sft_720p'}.py:5b")
