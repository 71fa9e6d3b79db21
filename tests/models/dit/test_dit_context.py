"""Compact text context, lower precision, bad input."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from dit_oracle import SMALL, pair, relative_error, run
from flax import nnx

from skyreels_jax.core.errors import UserError
from skyreels_jax.models.dit import SkyReelsV2Transformer3D
from skyreels_jax.models.umt5.text import compact_context


@pytest.fixture(scope="module")
def model():
    return pair(SMALL)[1]


def batch(seed: int = 0) -> dict:
    rng = np.random.default_rng(seed)
    draw = lambda *shape: jnp.asarray(rng.standard_normal(shape), jnp.float32)  # noqa: E731
    return {
        "latents": draw(2, 3, 4, 6, 4),
        "timestep": jnp.asarray([[3.0, 500.0, 999.0], [7.0, 7.0, 7.0]]),
        "context": draw(2, 16, 24),
    }


def test_compact_context_equals_512_padded_tokens(model):
    inputs, length = batch(), jnp.asarray([4, 15])
    hidden = inputs.pop("context")
    context, weight = compact_context(hidden, length, max_length=512)
    padded = jnp.where((jnp.arange(16)[None] < length[:, None])[..., None], hidden, 0.0)
    padded = jnp.pad(padded, ((0, 0), (0, 496), (0, 0)))
    long = run(model, **inputs, context=padded)
    short = run(model, **inputs, context=context, context_weight=weight)
    assert relative_error(short, long) < 1e-5


def test_equal_frame_times_are_a_clip_time(model):
    inputs = batch()
    clip = inputs | {"timestep": jnp.asarray([[250.0], [900.0]])}
    frames = inputs | {"timestep": jnp.broadcast_to(clip["timestep"], (2, 3))}
    assert relative_error(run(model, **frames), run(model, **clip)) < 1e-6


def test_bfloat16_parameters_within_three_percent(model):
    graphdef, state = nnx.split(model)
    low = nnx.merge(graphdef, jax.tree.map(lambda x: x.astype(jnp.bfloat16), state))
    output = run(low, **batch())
    assert output.dtype == jnp.bfloat16
    truth, output = np.asarray(run(model, **batch())), np.asarray(output, np.float32)
    assert np.linalg.norm(output - truth) / np.linalg.norm(truth) < 3e-2


BAD = {
    "patches": ({"latents": jnp.zeros((2, 3, 5, 6, 4))}, "not divisible by patches"),
    "channels": ({"latents": jnp.zeros((2, 3, 4, 6, 5))}, "5 channels, not 4"),
    "image": ({"image_context": jnp.zeros((2, 5, 12))}, "takes no image_context"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_says_what_is_legal(model, case):
    change, message = BAD[case]
    with pytest.raises(UserError, match=message):
        nnx.eval_shape(lambda: model(**batch() | change))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"inject_sample_info": True}, "pass fps"),
        ({"image_dim": 12, "added_kv_proj_dim": 40}, "needs image_context"),
        ({"num_frame_per_block": 2}, "3 latent frames are not divisible"),
        ({"rope_max_seq_len": 2}, "at most rope_max_seq_len = 2"),
    ],
)
def test_missing_conditions(change, message):
    config = dataclasses.replace(SMALL, **change)
    with pytest.raises(UserError, match=message):
        nnx.eval_shape(lambda: SkyReelsV2Transformer3D(config, rngs=nnx.Rngs(0))(**batch()))
