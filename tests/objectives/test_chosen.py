"""Fine-tuning on chosen films is the velocity loss on them, whatever the others are."""

import jax
import numpy as np
import pytest
from flax import nnx
from linear_model import SHAPE, Linear, make_batch

from skyreels_jax.core.config import from_dict, to_dict
from skyreels_jax.objectives.base import Objective
from skyreels_jax.objectives.chosen import Chosen
from skyreels_jax.objectives.diffusion_forcing import DiffusionForcing
from skyreels_jax.objectives.flow_matching import FlowMatching


@pytest.mark.parametrize(
    "velocity",
    [FlowMatching(times="uniform", caption_dropout=0.5), DiffusionForcing(prefix=1.0)],
    ids=["matching", "forcing"],
)
def test_it_is_the_velocity_loss_on_the_chosen_film(velocity):
    batch, model, key = make_batch(), Linear(SHAPE[-1], 4), jax.random.key(3)
    pairs = {**batch, "chosen": batch["latents"], "rejected": batch["latents"] + np.nan}
    del pairs["latents"]
    objective = Chosen(velocity=velocity)
    assert isinstance(objective, Objective)
    expected, found = velocity(model, batch, key), objective(model, pairs, key)
    jax.tree.map(np.testing.assert_array_equal, found, expected)

    def loss(model, one, batch):
        return one(model, batch, key).total

    gradients = (nnx.grad(loss)(model, *args) for args in ((velocity, batch), (objective, pairs)))
    jax.tree.map(np.testing.assert_array_equal, *map(nnx.to_pure_dict, gradients))


def test_it_reads_itself_back():
    objective = Chosen(velocity=FlowMatching(shift=2.5))
    assert from_dict(Chosen, to_dict(objective)) == objective
