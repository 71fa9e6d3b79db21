"""Image-to-video parts that start at zero: a text model that gains them stays what it was."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from dit_oracle import SMALL, abstract, relative_error, run
from flax import nnx

from skyreels_jax.models.dit import SkyReelsV2Transformer3D
from skyreels_jax.models.text_to_video import TextToVideo

TEXT = dataclasses.replace(SMALL, in_channels=3)
IMAGE = dataclasses.replace(TEXT, in_channels=9, image_dim=12, added_kv_proj_dim=40)


class NoText(nnx.Module):
    """Stands for the text encoder of a model that is given ready text states."""


def fresh(config, seed):
    make = jax.jit(lambda: nnx.state(SkyReelsV2Transformer3D(config, rngs=nnx.Rngs(seed))))
    return nnx.to_pure_dict(make())


def overlay(new, old):
    """Returns `new` with every leaf of `old`, the patch kernel's channels as the first ones."""
    if isinstance(new, dict):
        return {
            name: overlay(leaf, old[name]) if name in old else leaf for name, leaf in new.items()
        }
    return old if new.shape == old.shape else new.at[..., : old.shape[-2], :].set(old)


def test_a_text_model_with_new_image_parts_gives_its_velocities():
    text, image = fresh(TEXT, 0), fresh(IMAGE, 1)
    text["head"]["kernel"] = 0.1 * jax.random.normal(
        jax.random.key(0), text["head"]["kernel"].shape
    )
    assert np.any(image["patch_embedding"]["kernel"][..., :3, :])
    assert not np.any(image["patch_embedding"]["kernel"][..., 3:, :])
    draw = np.random.default_rng(0).standard_normal
    inputs = {
        "latents": jnp.asarray(draw((2, 2, 4, 4, 3)), jnp.float32),
        "timestep": jnp.asarray([[3.0], [500.0]]),
        "context": jnp.asarray(draw((2, 5, 24)), jnp.float32),
    }
    new = {
        "image_channels": jnp.asarray(draw((2, 2, 4, 4, 6)), jnp.float32),
        "image_context": jnp.asarray(draw((2, 7, 12)), jnp.float32),
    }

    def model(config, params):
        return TextToVideo(nnx.merge(abstract(config)[0], params), NoText())

    before = run(model(TEXT, text), **inputs)
    after = run(model(IMAGE, overlay(image, text)), **inputs, **new)
    assert np.abs(before).max() > 0.01
    assert relative_error(after, before) < 1e-5
