"""The KV cache: block by block it says what the whole model says under a mask made by hand."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from skyreels_jax.core.errors import UserError
from skyreels_jax.kernels.attention import attention
from skyreels_jax.models.dit import SkyReelsV2Transformer3D
from skyreels_jax.models.dit.config import DiTConfig
from skyreels_jax.models.dit.kv_cache import (
    CacheWindow,
    block_velocity,
    cache_window,
    empty_cache,
    place_block,
    write,
)
from skyreels_jax.models.dit.text import text_kv
from skyreels_jax.nn.rope import apply_rope
from skyreels_jax.nn.stack import UNROLLED
from skyreels_jax.testing.micro import TEXT_WIDTH, micro_configs, random_params

BLOCK, FRAMES, SIZE = 2, 12, (4, 4)
CONFIG = dataclasses.replace(
    micro_configs()["transformer"], num_frame_per_block=BLOCK, inject_sample_info=True
)
TOKENS = 4  # of a frame
CONDITIONS = {
    "context_weight": jnp.asarray([[1, 1, 2.5, 0, 1], [1, 1, 1, 1, 1]], jnp.float32),
    "fps": jnp.asarray([16, 24], jnp.int32),
}


@functools.cache
def model() -> SkyReelsV2Transformer3D:
    abstract = nnx.eval_shape(lambda: SkyReelsV2Transformer3D(CONFIG, rngs=nnx.Rngs(0)))
    params = jax.tree.map(jnp.asarray, random_params("transformer", CONFIG))
    return nnx.merge(nnx.split(abstract)[0], params)


def film() -> list[np.ndarray]:
    """Latents, times (clean but for the last block) and text."""
    rng = np.random.default_rng(0)
    latents = rng.standard_normal((2, FRAMES, *SIZE, CONFIG.in_channels))
    times = np.zeros((2, FRAMES))
    times[:, -BLOCK:] = [[700, 650], [300, 999]]
    context = rng.standard_normal((2, 5, TEXT_WIDTH))
    return [x.astype(np.float32) for x in (latents, times, context)]


@functools.cache
def compiled_block(window: CacheWindow):
    transformer = model()

    def run(latents, timestep, text, cache, place):
        known = {"text": text, "cache": cache, "place": place, "fps": CONDITIONS["fps"]}
        v, new = block_velocity(transformer, latents, timestep, window=window, **known)
        return v, write(cache, new, place=place)

    return jax.jit(run)


def cached(window: CacheWindow, place) -> np.ndarray:
    """The velocity of every block, each written to the cache before the next one."""
    latents, times, context = film()
    text = jax.jit(functools.partial(text_kv, model()))(context, CONDITIONS["context_weight"])
    cache = empty_cache(CONFIG, window, batch=2, size=SIZE, dtype=jnp.dtype("float32"))
    out = []
    for start in range(0, FRAMES, BLOCK):
        block = slice(start, start + BLOCK)
        v, cache = compiled_block(window)(
            latents[:, block], times[:, block], text, cache, place(window, start)
        )
        out.append(v)
    return np.concatenate(out, axis=1)


def near(window: CacheWindow, start: int):
    return place_block(window, start, head_dim=CONFIG.attention_head_dim)


def by_hand(window: CacheWindow, q, k, v, *, mask):
    """Attention in which each block is given its keys one frame after the other."""
    if q.ndim != k.ndim:  # to the text
        return attention(q, k, v, mask=mask, impl="reference")

    def tokens(x, frames):
        return x[:, np.array(frames)]

    out = []
    for start in range(0, FRAMES, BLOCK):
        block = list(range(start, start + BLOCK))
        kept = range(max(0, start - window.rolling), start)
        sinks = [f for f in range(window.sinks) if f not in kept and f not in block]
        keys, values = (tokens(x, [*kept, *block]) for x in (k, v))
        if sinks:
            turn = near(window, start).moved
            turn = [np.broadcast_to(t, (len(sinks), TOKENS, t.shape[1])) for t in turn]
            keys = jnp.concatenate([apply_rope(tokens(k, sinks), *map(jnp.asarray, turn)), keys], 1)
            values = jnp.concatenate([tokens(v, sinks), values], 1)
        out.append(attention(tokens(q, block), keys, values, impl="reference"))
    return jnp.concatenate(out, axis=1)


WINDOWS = {
    "all history": CacheWindow(block=BLOCK, rolling=FRAMES),
    "rolling": CacheWindow(block=BLOCK, rolling=4),
    "rolling and sinks": CacheWindow(block=BLOCK, rolling=4, sinks=2),
}


@pytest.mark.parametrize("window", WINDOWS.values(), ids=WINDOWS)
def test_the_cache_is_a_mask_made_by_hand(window):
    whole = functools.partial(by_hand, window)
    if window.rolling == FRAMES:
        whole = functools.partial(attention, impl="reference")  # the model's own causal mask
    run = jax.jit(functools.partial(model(), attention=whole))
    expected = np.asarray(run(*film(), **CONDITIONS))
    np.testing.assert_allclose(cached(window, near), expected, atol=1e-5 * np.abs(expected).max())


def test_sinks_stand_before_the_rolling_frames():
    window = WINDOWS["rolling and sinks"]
    width = CONFIG.attention_head_dim // 2
    for start, moved in ((0, 0), (6, 0), (8, 2), (4_000_000, 3_999_994)):
        cos, sin = near(window, start).moved
        assert cos.shape == sin.shape == (1, width)
        angle = np.arctan2(sin[0, 0], cos[0, 0])  # of the fastest channel: a radian a frame
        assert abs(np.exp(1j * angle) - np.exp(1j * moved)) < 1e-6
        assert not sin[0, 2:].any() and (cos[0, 2:] == 1).all()  # space stands still


def test_slots_fill_up_and_then_roll():
    window = WINDOWS["rolling and sinks"]
    places = [near(window, start) for start in range(0, 16, BLOCK)]
    assert [int(place.slot) for place in places] == [0, 2, 4, 2, 4, 2, 4, 2]
    assert [int(place.filled) for place in places] == [0, 2, 4, 6, 6, 6, 6, 6]
    with pytest.raises(ValueError, match="starts at frame 3"):
        near(window, 3)


def test_a_film_without_end_has_no_last_position():
    def far(window, start):
        return near(window, 40_000_000 + start)._replace(filled=near(window, start).filled)

    window = WINDOWS["rolling"]
    expected = cached(window, near)
    np.testing.assert_allclose(cached(window, far), expected, atol=1e-5 * np.abs(expected).max())


def test_only_whole_blocks_and_causal_models():
    assert cache_window(CONFIG, rolling=6, sinks=2).slots == 8
    with pytest.raises(UserError, match="rolling .* whole blocks of 2; nearest legal: 4 or 6"):
        cache_window(CONFIG, rolling=5)
    with pytest.raises(UserError, match="sinks .*; nearest legal: 0 or 2"):
        cache_window(CONFIG, rolling=4, sinks=1)
    with pytest.raises(UserError, match="num_frame_per_block 1"):
        cache_window(dataclasses.replace(CONFIG, num_frame_per_block=1), rolling=4)
    for changed in ({"patch_size": (2, 2, 2)}, {"image_dim": 8, "added_kv_proj_dim": 24}):
        with pytest.raises(UserError, match="text-to-video model with patches of one frame"):
            cache_window(dataclasses.replace(CONFIG, **changed), rolling=4)
    window, (latents, times, context) = WINDOWS["rolling"], film()
    text = text_kv(model(), jnp.asarray(context))
    cache = empty_cache(CONFIG, window, batch=2, size=SIZE, dtype=jnp.dtype("float32"))
    known = {"text": text, "cache": cache, "place": near(window, 0), "fps": CONDITIONS["fps"]}
    with pytest.raises(UserError, match="blocks of 2 frames, got 4"):
        block_velocity(
            model(), *map(jnp.asarray, (latents[:, :4], times[:, :4])), window=window, **known
        )


def test_the_size_of_a_cache():
    config = DiTConfig(num_attention_heads=12, ffn_dim=8960, num_layers=30, num_frame_per_block=5)
    window = cache_window(config, rolling=20)
    cache = jax.eval_shape(
        lambda: empty_cache(config, window, batch=1, size=(68, 120), dtype=jnp.dtype("bfloat16"))
    )
    assert cache.key.shape == (30, 1, 20, 34 * 60, 12, 128)


def test_deep_models_in_bfloat16_keep_their_dtype():
    config = dataclasses.replace(CONFIG, num_layers=UNROLLED + 1, inject_sample_info=False)
    window, dtype = WINDOWS["rolling and sinks"], jnp.dtype("bfloat16")

    def run(latents, times, context):
        deep = SkyReelsV2Transformer3D(config, rngs=nnx.Rngs(0))
        graphdef, state = nnx.split(deep)
        deep = nnx.merge(graphdef, jax.tree.map(lambda leaf: leaf.astype(dtype), state))
        cache = empty_cache(config, window, batch=2, size=SIZE, dtype=dtype)
        known = {"text": text_kv(deep, context), "cache": cache, "place": near(window, 8)}
        v, new = block_velocity(deep, latents, times, window=window, **known)
        return v, cache, write(cache, new, place=near(window, 8))

    latents, times, context = film()
    v, before, after = jax.eval_shape(run, latents[:, :BLOCK], times[:, :BLOCK], context)
    assert v.shape == (2, BLOCK, *SIZE, config.out_channels) and v.dtype == dtype
    assert before == after and after.key.dtype == dtype
