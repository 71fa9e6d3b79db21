"""Text encoder and transformer as one model."""

import jax.numpy as jnp
import numpy as np
import pytest
from dit_oracle import SMALL, pair, run
from flax import nnx

from skyreels_jax.core.errors import UserError
from skyreels_jax.models.text_to_video import TextToVideo


class Lookup(nnx.Module):
    """The smallest text encoder: a table, zero where masked."""

    def __init__(self, *, rngs: nnx.Rngs):
        self.table = nnx.Param(rngs.normal((50, SMALL.text_dim)))

    def __call__(self, input_ids, mask):
        return jnp.where(mask[..., None], self.table[...][input_ids], 0.0)


@pytest.fixture(scope="module")
def model():
    return TextToVideo(pair(SMALL)[1], Lookup(rngs=nnx.Rngs(0)))


LATENTS = jnp.asarray(np.random.default_rng(0).standard_normal((2, 2, 4, 4, 4)), jnp.float32)
TIME = jnp.asarray([[500.0], [20.0]])
IDS, LENGTH = jnp.asarray([[3, 7, 1, 0, 0, 0], [4, 9, 9, 2, 1, 0]]), jnp.asarray([3, 5])


def test_tokens_and_their_states_give_the_same_velocity(model):
    encoded = model.encode(IDS, LENGTH)
    np.testing.assert_array_equal(encoded["context_weight"][0], [1, 1, 1, 509, 0, 0])
    from_tokens = run(model, LATENTS, TIME, input_ids=IDS, length=LENGTH)
    from_states = run(model, LATENTS, TIME, **encoded)
    np.testing.assert_allclose(from_tokens, from_states, atol=1e-6)
    assert from_tokens.shape == (2, 2, 4, 4, 3)


def test_padding_columns_change_nothing(model):
    wide = jnp.pad(IDS, ((0, 0), (0, 10)))
    narrow = run(model, LATENTS, TIME, input_ids=IDS, length=LENGTH)
    np.testing.assert_allclose(
        run(model, LATENTS, TIME, input_ids=wide, length=LENGTH), narrow, atol=1e-5
    )


@pytest.mark.parametrize("cond", [{}, {"input_ids": IDS}, {"input_ids": IDS, "context": True}])
def test_one_kind_of_text(model, cond):
    cond = {k: jnp.zeros((2, 6, 24)) if v is True else v for k, v in cond.items()}
    with pytest.raises(UserError, match="one of these"):
        model(LATENTS, TIME, **cond)
