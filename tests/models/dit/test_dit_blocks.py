"""Every block of the transformer against diffusers', float32: 1e-5 of the output's scale."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from dit_oracle import SMALL, pair, relative_error, run
from flax import nnx

from skyreels_jax.kernels.attention import Mask, attention
from skyreels_jax.nn.rope import rope_table, timestep_embedding

GRID, WIDTH, SECOND = (3, 2, 5), SMALL.width, 1
FULL = dataclasses.replace(
    SMALL, image_dim=12, added_kv_proj_dim=WIDTH, pos_embed_seq_len=6, inject_sample_info=True
)
STATIC = {"attention": attention}
RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def models():
    """(diffusers' model, ours, the second block of ours)."""
    theirs, ours = pair(FULL)
    graphdef, state = nnx.split(ours.blocks)
    return theirs, ours, nnx.merge(graphdef, jax.tree.map(lambda leaf: leaf[SECOND], state))


def draw(*shape) -> tuple[torch.Tensor, jax.Array]:
    """The same numbers for both sides."""
    x = RNG.standard_normal(shape).astype(np.float32)
    return torch.tensor(x), jnp.asarray(x)


def by_frame(tokens):
    """[B, L, D] as ours are, [B, T, S, D]."""
    return tokens.reshape(len(tokens), GRID[0], -1, tokens.shape[-1])


def check(ours, theirs):
    """Equality but for axes that are cut in two."""
    theirs = theirs.detach()
    assert relative_error(ours.reshape(theirs.shape), theirs) < 1e-5


def rope(theirs):
    table = rope_table(GRID, head_dim=SMALL.attention_head_dim, max_seq_len=SMALL.rope_max_seq_len)
    pixels = torch.zeros(1, 1, GRID[0], 2 * GRID[1], 2 * GRID[2])
    return theirs.rope(pixels), table


def test_patch_embedding(models):
    theirs, ours, _ = models
    t, j = draw(2, 3, 4, 10, 4)
    video = t.permute(0, 4, 1, 2, 3)
    check(run(ours.patch_embedding, j), theirs.patch_embedding(video).flatten(2).transpose(1, 2))


def test_time_embedding_and_its_projection(models):
    theirs, ours, _ = models
    embedder = theirs.condition_embedder
    times = RNG.uniform(0, 1000, (2, 3)).astype(np.float32)
    expected = embedder.time_embedder(embedder.timesteps_proj(torch.tensor(times)).float())
    time = run(ours.time_embedder, timestep_embedding(jnp.asarray(times), FULL.freq_dim))
    check(time, expected)
    projected = embedder.time_proj(torch.nn.functional.silu(expected))
    check(run(ours.time_proj, jax.nn.silu(time)), projected)


def test_text_embedding(models):
    theirs, ours, _ = models
    t, j = draw(2, 7, FULL.text_dim)
    check(run(ours.text_embedder, j), theirs.condition_embedder.text_embedder(t))


def test_image_embedding_with_positions(models):
    theirs, ours, _ = models
    t, j = draw(2, 6, FULL.image_dim)
    pairs = t.reshape(4, 3, FULL.image_dim)  # diffusers takes first and last frame as two rows
    check(run(ours.image_embedder, j), theirs.condition_embedder.image_embedder(pairs))


def test_fps_embedding_is_row_0_for_16_and_row_1_for_any_other_rate(models):
    theirs, ours, _ = models
    expected = theirs.fps_projection(theirs.fps_embedding(torch.tensor([0, 1, 1])))
    ours = run(ours.fps_embedder, jnp.asarray([16, 24, 30]))
    check(ours, expected.reshape(3, 1, 6, -1))


def test_self_attention(models):
    theirs, _, block = models
    t, j = draw(2, 30, WIDTH)
    their_rope, our_rope = rope(theirs)
    expected = theirs.blocks[SECOND].attn1(t, None, None, their_rope)
    j = by_frame(j)
    check(run(block.attn1, j, rope=our_rope, mask=None, static=STATIC), expected)


def test_cross_attention_to_text_and_image(models):
    theirs, _, block = models
    (t, j), (text, j_text), (image, j_image) = (
        draw(2, 30, WIDTH),
        draw(2, 512, WIDTH),
        draw(2, 6, WIDTH),
    )
    expected = theirs.blocks[SECOND].attn2(t, torch.cat([image, text], 1), None, None)
    ours = run(block.attn2, by_frame(j), context=j_text, mask=None, image=j_image, static=STATIC)
    check(ours, expected)


def test_feed_forward(models):
    theirs, _, block = models
    t, j = draw(2, 9, WIDTH)
    check(run(block.ffn, j), theirs.blocks[SECOND].ffn(t))


@pytest.mark.parametrize("frames", [1, GRID[0]])
def test_block_with_modulation_per_clip_and_per_frame(models, frames):
    theirs, _, block = models
    (t, j), (text, j_text), (image, j_image), (mod, j_mod) = (
        draw(2, 30, WIDTH),
        draw(2, 512, WIDTH),
        draw(2, 6, WIDTH),
        draw(2, frames, 6, WIDTH),
    )
    their_rope, our_rope = rope(theirs)
    tokens = mod.repeat_interleave(30 // frames, dim=1).transpose(1, 2)  # diffusers expands
    causal = Mask(causal_block=GRID[1] * GRID[2])
    index = torch.arange(30) // causal.causal_block
    expected = theirs.blocks[SECOND](
        t, torch.cat([image, text], 1), tokens, their_rope, index[None, :] <= index[:, None]
    )
    ours = run(
        block,
        by_frame(j),
        j_mod,
        context=j_text,
        rope=our_rope,
        mask=causal,
        context_mask=None,
        image=j_image,
        static=STATIC,
    )
    check(ours, expected)
