"""What runs may begin with, apart from other runs (those: test_train)."""

import jax
import numpy as np
import pytest
from flax import nnx

from skyreels_jax.cli.recipes.start import check_model, started
from skyreels_jax.core.errors import UserError
from skyreels_jax.data.toy_film.tokenizer import build_tokenizer
from skyreels_jax.pipelines import load
from skyreels_jax.testing.micro import write_micro_model


@pytest.fixture(scope="module")
def tiny():
    """The shipped miniature's weights by component, as they are read for films."""
    modules = load.find("tiny").read("float32")
    return {name: nnx.to_pure_dict(nnx.state(m, nnx.Param)) for name, m in modules.items()}


def test_a_run_may_start_from_a_model(tiny):
    like = {name: tiny[name] for name in ("transformer", "text_encoder")}
    check_model("tiny", like)
    made = started("tiny", like)
    assert all(leaf.dtype == np.float32 for leaf in jax.tree.leaves(made))
    jax.tree.map(np.testing.assert_array_equal, made, like)
    jax.tree.map(np.testing.assert_array_equal, started("tiny", tiny["vae"]), tiny["vae"])


@pytest.mark.parametrize("look", [started, check_model])
def test_a_model_that_does_not_fit_is_refused(look, tiny, tmp_path):
    like = {name: dict(tiny[name]) for name in ("transformer", "text_encoder")}
    del like["transformer"]["head"]
    with pytest.raises(UserError, match="tiny holds another model: transformer/head/"):
        look("tiny", like)
    like["transformer"] = {**tiny["transformer"], "head": {"kernel": np.zeros((3, 5))}}
    with pytest.raises(UserError, match="tiny holds another model: transformer/head/"):
        look("tiny", like)
    folder = write_micro_model(tmp_path / "micro")
    other = build_tokenizer()
    other.add_tokens(["zeppelin"])
    other.save_pretrained(folder / "tokenizer")
    with pytest.raises(UserError, match="reads other words than these captions"):
        look(str(folder), like)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="not a model folder"):
        look(str(tmp_path / "empty"), like)


@pytest.mark.parametrize("look", [started, check_model])
def test_a_place_with_nothing_is_refused(look):
    with pytest.raises(UserError, match="train that run first .legal as well: 'tiny', a model fol"):
        look("runs/toy/nowhere", {})
    with pytest.raises(UserError, match="the hub did not give it"):
        look("nobody/nothing", {})
