"""What layers read of text and image, computed before: the velocity is that of the whole call."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from skyreels_jax.core.errors import UserError
from skyreels_jax.models.dit import SkyReelsV2Transformer3D
from skyreels_jax.models.kinds import abstract_model
from skyreels_jax.nn.stack import UNROLLED
from skyreels_jax.testing.micro import TEXT_WIDTH, micro_configs, random_params

TEXT = micro_configs()["transformer"]
CONFIGS = {
    "text": TEXT,
    "deep": dataclasses.replace(TEXT, num_layers=UNROLLED + 1),
    "image": dataclasses.replace(TEXT, image_dim=12, added_kv_proj_dim=TEXT.width),
}


def made(config) -> SkyReelsV2Transformer3D:
    params = jax.tree.map(jnp.asarray, random_params("transformer", config))
    return nnx.merge(abstract_model("transformer", config)[0], params)


@pytest.mark.parametrize("name", CONFIGS)
def test_velocities_are_the_same(name):
    config, rng = CONFIGS[name], np.random.default_rng(0)

    def draw(*shape):
        return jnp.asarray(rng.standard_normal(shape), jnp.float32)

    latents, times = draw(2, 2, 4, 4, config.in_channels), jnp.asarray([[700.0], [30.0]])
    conditions = {"context_weight": jnp.asarray([[1, 1, 2.5], [1, 3, 0]], jnp.float32)}
    if config.image_dim is not None:
        conditions["image_context"] = draw(2, 5, config.image_dim)
    model, context = made(config), draw(2, 3, TEXT_WIDTH)
    expected = jax.jit(lambda: model(latents, times, context, **conditions))()
    text = jax.jit(lambda: model.read(context, **conditions))()
    assert text.kv.key.shape[:3] == (config.num_layers, 2, 3)
    found = jax.jit(lambda text: model(latents, times, text=text))(text)
    assert np.abs(expected).max() > 0.1
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_one_form_of_text():
    model = made(TEXT)
    latents, times = jnp.zeros((1, 1, 4, 4, TEXT.in_channels)), jnp.zeros((1, 1))
    context = jnp.zeros((1, 3, TEXT_WIDTH))
    with pytest.raises(UserError, match="one of both"):
        model(latents, times)
    with pytest.raises(UserError, match="one of both"):
        model(latents, times, context, text=model.read(context))
