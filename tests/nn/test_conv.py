"""Convolutions against PyTorch, 1e-6 of the output's scale."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

from skyreels_jax.nn.conv import CausalConv3D, Conv2D, causal_conv, spatial_conv

RANDOM = np.random.default_rng(0)


def normal(*shape):
    return jnp.asarray(RANDOM.normal(size=shape), jnp.float32)


def theirs_causal(x, kernel, *, stride=1, past=None):
    """PyTorch's 3-D convolution after `past` frames, zeros if None."""
    kt, kh, kw = kernel.shape[:3]
    if past is None:
        past = np.zeros((x.shape[0], kt - stride, *x.shape[2:]), np.float32)
    x = torch.tensor(np.concatenate([past, np.asarray(x)], 1)).permute(0, 4, 1, 2, 3)
    y = torch.nn.functional.conv3d(
        x,
        torch.tensor(np.asarray(kernel)).permute(4, 3, 0, 1, 2),
        stride=(stride, 1, 1),
        padding=(0, kh // 2, kw // 2),
    )
    return y.permute(0, 2, 3, 4, 1).numpy()


def close(ours, theirs):
    assert ours.shape == theirs.shape
    assert np.abs(np.asarray(ours) - theirs).max(initial=0) <= 1e-6 * np.abs(theirs).max(initial=1)


@pytest.mark.parametrize("frames", [1, 2, 5])
@pytest.mark.parametrize("size", [(3, 3, 3), (3, 1, 1), (1, 1, 1), (2, 1, 3)])
def test_causal_conv(frames, size):
    x, kernel = normal(2, frames, 5, 4, 3), normal(*size, 3, 2)
    y, past = jax.jit(causal_conv)(x, kernel)
    close(y, theirs_causal(x, kernel))
    padded = np.concatenate([np.zeros((2, size[0] - 1, 5, 4, 3), np.float32), x], 1)
    np.testing.assert_array_equal(past, padded[:, frames:])


@pytest.mark.parametrize("stride", [1, 2])
def test_carried_past_continues_the_clip(stride):
    x, kernel = normal(1, 8, 4, 4, 2), normal(3, 3, 3, 2, 3)
    whole, _ = causal_conv(x, kernel, time_stride=stride)
    close(whole, theirs_causal(x, kernel, stride=stride))
    parts, past = [], None
    for start, count in ((0, 2), (2, 4), (6, 2)):
        y, past = causal_conv(x[:, start : start + count], kernel, past, time_stride=stride)
        parts.append(y)
        assert past.shape == (1, 3 - stride, 4, 4, 2)
    close(jnp.concatenate(parts, axis=1), np.asarray(whole))


@pytest.mark.parametrize("stride", [1, 2])
def test_no_frames_give_no_frames(stride):
    kernel, past = normal(3, 1, 1, 2, 3), normal(1, 3 - stride, 4, 4, 2)
    y, kept = causal_conv(jnp.zeros((1, 0, 4, 4, 2)), kernel, past, time_stride=stride)
    assert y.shape == (1, 0, 4, 4, 3)
    np.testing.assert_array_equal(kept, past)


def test_strided_conv_with_trailing_padding():
    x, kernel = normal(2, 6, 4, 3), normal(3, 3, 3, 5)
    ours = spatial_conv(x, kernel, stride=2, padding=((0, 1), (0, 1)))
    padded = torch.nn.functional.pad(torch.tensor(np.asarray(x)).permute(0, 3, 1, 2), (0, 1, 0, 1))
    kernel = torch.tensor(np.asarray(kernel)).permute(3, 2, 0, 1)
    theirs = torch.nn.functional.conv2d(padded, kernel, stride=2)
    close(ours, theirs.permute(0, 2, 3, 1).numpy())


def test_modules_hold_named_float32_parameters_and_compute_in_their_dtype():
    rngs = nnx.Rngs(0)
    flat = Conv2D(2, 3, kernel_size=3, rngs=rngs)
    deep = CausalConv3D(2, 3, kernel_size=(3, 3, 3), rngs=rngs)
    assert flat.kernel.shape == (3, 3, 2, 3) and deep.kernel.shape == (3, 3, 3, 2, 3)
    x = jnp.ones((1, 2, 4, 4, 2))
    for layer in (flat, deep):
        bound = np.prod(layer.kernel.shape[:-1]) ** -0.5
        assert layer.kernel.dtype == jnp.float32 and layer.bias.shape == (3,)
        assert 0.8 * bound < jnp.abs(layer.kernel[...]).max() <= bound
        graphdef, state = nnx.split(layer)
        half = nnx.merge(graphdef, jax.tree.map(lambda a: a.astype(jnp.bfloat16), state))
        y = half(x) if layer is flat else half(x)[0]
        assert y.dtype == jnp.bfloat16
