"""A model small enough for a gradient by hand, and its batches."""

import jax.numpy as jnp
import numpy as np
from flax import nnx

SHAPE = (5, 2, 3, 4, 2)


class Linear(nnx.Module):
    """v = x @ kernel + bias[caption] + time / 1000."""

    def __init__(self, channels: int, captions: int):
        self.kernel = nnx.Param(jnp.eye(channels) * 0.3 + 0.1)
        self.bias = nnx.Param(jnp.arange(captions, dtype=jnp.float32))

    def __call__(self, x, t, *, caption=None):
        y = jnp.einsum("bthwc,cd->bthwd", x, self.kernel[...])
        if caption is not None:
            y = y + self.bias[...][caption][:, None, None, None, None]
        return y + 0.001 * t[:, :, None, None, None]


def make_batch(clips=SHAPE[0], *, frames=SHAPE[1], start=0, given=0):
    data = np.random.default_rng(0).normal(size=(clips, frames, *SHAPE[2:])).astype(np.float32)
    return {
        "latents": jnp.asarray(data),
        "start": jnp.full(clips, start, jnp.int32),
        "given": jnp.full(clips, given, jnp.int32),
        "cond": {"caption": jnp.arange(clips) % 3 + 1},
        "null_cond": {"caption": jnp.zeros(clips, jnp.int32)},
    }
