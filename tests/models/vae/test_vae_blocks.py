"""Blocks of the VAE against diffusers' on random weights, float32: 1e-5 of the output's scale."""

import jax
import numpy as np
import pytest
import torch
from diffusers.models.autoencoders import autoencoder_kl_wan as wan
from flax import nnx
from vae_oracle import RESIDUAL, config, jax_video, pair, random_video, relative_error, torch_video

from skyreels_jax.core.errors import UserError
from skyreels_jax.models.vae.fold import (
    check_pool,
    check_spread,
    patchify,
    pool,
    spread,
    unpatchify,
)
from skyreels_jax.models.vae.stream import Stream

BLOCKS = [  # name in diffusers, ours, frames per chunk that diffusers is given
    ("encoder.down_blocks.0", "encoder.down_blocks.0", (5,)),
    ("encoder.down_blocks.2", "encoder.down_blocks.2", (2, 1)),
    ("encoder.down_blocks.1", "encoder.down_blocks.1", (3,)),
    ("encoder.down_blocks.3", "encoder.down_blocks.3", (1, 4, 2, 2)),
    ("encoder.mid_block", "encoder.mid_block", (1, 1, 1)),
    ("encoder.mid_block.attentions.0", "encoder.mid_block.attentions.0", (3,)),
    ("decoder.mid_block.resnets.1", "decoder.mid_block.resnets.1", (1, 2)),
    ("decoder.up_blocks.0.upsamplers.0", "decoder.up_blocks.0.upsamplers.0", (1, 1, 1, 2)),
    ("decoder.up_blocks.1.upsamplers.0", "decoder.up_blocks.1.upsamplers.0", (1, 2, 2)),
    ("decoder.up_blocks.2", "decoder.up_blocks.2", (1, 4)),
]


def theirs_in_chunks(module, x, chunks):
    """Runs diffusers' block chunk by chunk, as its encode and decode do."""
    cache, parts, start = [None] * 20, [], 0
    for count in chunks:
        chunk = x[:, :, start : start + count]
        cached = {} if isinstance(module, wan.WanAttentionBlock) else {"feat_cache": cache}
        first = {"first_chunk": start == 0} if "UpBlock" in type(module).__name__ else {}
        if cached:
            cached["feat_idx"] = [0]
        with torch.no_grad():
            parts.append(module(chunk, **cached, **first))
        start += count
    assert start == x.shape[2]
    return torch.cat(parts, dim=2)


def width(module):
    """Channels that diffusers' block takes."""
    for child in module.modules():
        if hasattr(child, "gamma"):
            return child.gamma.shape[0]
        if isinstance(child, torch.nn.Conv2d):
            return child.in_channels
    raise AssertionError


def check(models, theirs_name, ours_name, chunks):
    theirs, graphdef, params = models
    module = theirs.get_submodule(theirs_name)
    x = random_video(2, sum(chunks), 6, 4, width(module))
    expected = theirs_in_chunks(module, torch_video(x), chunks)
    block = nnx.merge(graphdef, params)
    for part in ours_name.split("."):
        block = block[int(part)] if part.isdigit() else getattr(block, part)
    structure, state = nnx.split(block)
    ours = jax.jit(lambda state, x: nnx.merge(structure, state)(x, Stream()))(state, x)
    assert relative_error(ours, jax_video(expected)) < 1e-5


@pytest.fixture(scope="module")
def plain():
    return pair(config())


@pytest.fixture(scope="module")
def residual():
    return pair(config(**RESIDUAL))


@pytest.mark.parametrize(("theirs", "ours", "chunks"), BLOCKS, ids=[b[0] for b in BLOCKS])
def test_block(plain, theirs, ours, chunks):
    check(plain, theirs, ours, chunks)


@pytest.mark.parametrize("name", ["encoder.down_blocks.0", "encoder.down_blocks.3"])
def test_residual_stage_without_time(residual, name):
    check(residual, name, name, (3,))


def test_residual_stages_with_time(residual):
    check(residual, "encoder.down_blocks.1", "encoder.down_blocks.1", (1, 4, 2))
    check(residual, "decoder.up_blocks.0", "decoder.up_blocks.0", (1, 1, 2))


@pytest.mark.parametrize(
    ("width", "out", "time", "space"), [(4, 8, 2, 2), (4, 4, 1, 2), (6, 4, 2, 1)]
)
def test_pool_equals_avg_down(width, out, time, space):
    x = random_video(2, 5, 4, 6, width)
    theirs = wan.AvgDown3D(width, out, time, space)
    first = x[:, :1]
    for part, is_first in ((first, True), (x[:, 1:], False)):
        ours = pool(part, out, time=time, space=space, first=is_first)
        assert relative_error(ours, jax_video(theirs(torch_video(part)))) < 1e-6


@pytest.mark.parametrize(
    ("width", "out", "time", "space"), [(8, 4, 2, 2), (4, 4, 1, 2), (8, 2, 2, 2)]
)
@pytest.mark.parametrize("first", [True, False])
def test_spread_equals_dup_up(width, out, time, space, first):
    x = random_video(2, 3, 2, 4, width)
    theirs = wan.DupUp3D(width, out, time, space)(torch_video(x), first_chunk=first)
    ours = spread(x, out, time=time, space=space, first=first)
    np.testing.assert_array_equal(ours, jax_video(theirs))


@pytest.mark.parametrize("patch", [1, 2, 3])
def test_patchify(patch):
    x = random_video(2, 3, 6, 12, 3)
    ours = patchify(x, patch)
    np.testing.assert_array_equal(ours, jax_video(wan.patchify(torch_video(x), patch)))
    np.testing.assert_array_equal(unpatchify(ours, patch), x)


def test_impossible_shortcuts_are_refused():
    with pytest.raises(UserError, match="do not pool into 7"):
        check_pool(4, 7, time=1, space=2)
    with pytest.raises(UserError, match="do not spread into 3"):
        check_spread(5, 3, time=2, space=2)
