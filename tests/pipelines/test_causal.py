"""Blocks from a KV cache: cached equals uncached, block after block in the same programs."""

import functools
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from skyreels_jax.core.rng import stream
from skyreels_jax.diffusion.guidance import guided
from skyreels_jax.diffusion.plan import Plan, time_grid
from skyreels_jax.diffusion.sample import condition_noise, place, sample_steps
from skyreels_jax.diffusion.solvers import UniPC
from skyreels_jax.models.dit import SkyReelsV2Transformer3D
from skyreels_jax.models.dit.blocks import KV
from skyreels_jax.models.dit.kv_cache import block_velocity, cache_window, place_block
from skyreels_jax.models.dit.text import text_kv
from skyreels_jax.pipelines import generate
from skyreels_jax.pipelines.causal import CachedBlocks
from skyreels_jax.pipelines.generate import initial_noise
from skyreels_jax.pipelines.lengths import FilmPlan
from skyreels_jax.testing.micro import TEXT_WIDTH, micro_configs, random_params

BLOCK, FRAMES, STEPS, SCALE, SHIFT = 2, 12, 2, 3.0, 5.0
CONFIG = micro_configs(causal_block=BLOCK)["transformer"]
SIZE, SEEDS = (4, 4, CONFIG.in_channels), (3, 4)


def plan(latents: int = FRAMES, *, seen: int = FRAMES, **changed) -> FilmPlan:
    options = {"num_frames": 4 * latents - 3, "base_num_frames": 4 * seen - 3, "carry": "cache"}
    options |= {"causal_block_size": BLOCK, "inference_steps": STEPS, "shift": SHIFT}
    return FilmPlan(**options | changed)


def rolling(latents: int = FRAMES, **changed) -> FilmPlan:
    """Blocks that see one block before them, and the first one of the film."""
    return plan(latents, seen=6, sink_frames=2, **changed)


@functools.cache
def model() -> SkyReelsV2Transformer3D:
    abstract = nnx.eval_shape(lambda: SkyReelsV2Transformer3D(CONFIG, rngs=nnx.Rngs(0)))
    params = jax.tree.map(jnp.asarray, random_params("transformer", CONFIG))
    return nnx.merge(nnx.split(abstract)[0], params)


@functools.cache
def told(scene: str) -> tuple[dict, dict]:
    """Conditions and negative ones of both films; each name has its own."""

    def draw(seed):
        rng = np.random.default_rng(seed)
        context = rng.standard_normal((len(SEEDS), 5, TEXT_WIDTH)).astype(np.float32)
        weight = rng.uniform(0.5, 3, (len(SEEDS), 5)).astype(np.float32)
        return {"context": jnp.asarray(context), "context_weight": jnp.asarray(weight)}

    return draw(ord(scene)), draw(0)


def maker(film: FilmPlan, *, scale: float = SCALE, **options) -> CachedBlocks:
    window = cache_window(CONFIG, rolling=film.rolling, sinks=film.sink_frames)
    return CachedBlocks(model(), window, guidance_scale=scale, solver="unipc", **options)


def make(
    film: FilmPlan, *, using=None, scenes="aaaaaa", seeds=SEEDS, given=None
) -> Iterator[tuple[np.ndarray, KV]]:
    """Yields the latents of every window, and the cache after it."""
    using = maker(film) if using is None else using
    cache = using.start(len(seeds), SIZE[:2])
    for window in film.windows():
        x = initial_noise(seeds, (window.plan.latent_frames, *SIZE), window=window.index)
        rows = using(
            window,
            place(x, prefix=None if window.index else given),
            told(scenes[window.index]),
            keys=keys(seeds, window.index),
            memory=cache,
        )
        x, cache = generate.finished(rows)
        yield np.asarray(x), cache


def blocks(film: FilmPlan, **options) -> list[np.ndarray]:
    return [x for x, _ in make(film, **options)]


def keys(seeds, index: int) -> jax.Array:
    return jnp.stack([stream(seed, "window", index) for seed in seeds])


def uncached(film: FilmPlan, given: np.ndarray | None = None) -> np.ndarray:
    """The whole film under the causal mask in every row, one block after the other."""
    lengths = [window.plan.latent_frames for window in film.windows()]
    noise = [initial_noise(SEEDS, (n, *SIZE), window=i) for i, n in enumerate(lengths)]
    whole = Plan(
        latent_frames=FRAMES,
        inference_steps=STEPS,
        shift=SHIFT,
        ar_step=STEPS,
        causal_block_size=BLOCK,
        prefix=0 if given is None else given.shape[1],
    )
    velocity, start = guided(model(), *told("a"), SCALE), np.concatenate(noise, axis=1)
    *_, last = sample_steps(velocity, place(start, prefix=given), time_grid(whole), UniPC())
    return np.asarray(last)


def test_cached_equals_uncached():
    film = plan()
    expected = uncached(film)
    got = np.concatenate(blocks(film), axis=1)
    assert np.abs(expected).max() > 1  # the tolerance is one of numbers near 1
    np.testing.assert_allclose(got, expected, atol=1e-4)


def test_given_frames_may_end_inside_a_block():
    given = np.asarray(jax.random.normal(jax.random.key(7), (len(SEEDS), 3, *SIZE)))
    film = plan(video_frames=9, overlap_history=9)
    made = blocks(film, given=given)
    assert [block.shape[1] for block in made] == [4, 2, 2, 2, 2]
    expected = uncached(film, given)
    np.testing.assert_array_equal(made[0][:, :3], given)
    np.testing.assert_allclose(np.concatenate(made, axis=1), expected, atol=1e-4)


def test_every_block_is_the_same_program_and_the_cache_never_grows(caplog):
    calls, film = [], rolling()
    made = make(film, using=maker(film, progress=calls.append))
    _, cache = next(made)
    size = cache.key.nbytes
    caplog.clear()
    with jax.log_compiles():
        *_, (_, cache) = made
    assert not [record for record in caplog.records if "ompiling" in record.getMessage()]
    assert cache.key.nbytes == size and calls == [1] * STEPS * 6


def test_compilations_would_be_seen(caplog):
    with jax.log_compiles():
        jax.jit(lambda x: x * 3 + 1)(jnp.ones(7))
    assert [record for record in caplog.records if "ompiling" in record.getMessage()]


def test_a_new_scene_computes_its_text_alone(caplog, monkeypatch):
    film, computed = rolling(8), []
    plain = blocks(film)
    compiled = generate.compiled_reading

    def counted(*args):
        computed.append(args)
        return compiled(*args)

    monkeypatch.setattr(generate, "compiled_reading", counted)
    caplog.clear()
    with jax.log_compiles():
        changed = blocks(film, scenes="aabb")
    assert len(computed) == 2
    assert not [record for record in caplog.records if "ompiling" in record.getMessage()]
    for before, after in zip(plain[:2], changed[:2], strict=True):
        np.testing.assert_array_equal(before, after)
    assert np.abs(plain[2] - changed[2]).max() > 1e-2


def test_films_hang_on_their_own_seed():
    expected = blocks(rolling(4))
    both = jax.tree.map(lambda rows: rows[::-1], told("a"))
    film = rolling(4)
    using = maker(film)
    cache = using.start(len(SEEDS), SIZE[:2])
    for window, theirs in zip(film.windows(), expected, strict=True):
        x = initial_noise(SEEDS[::-1], (BLOCK, *SIZE), window=window.index)
        where = keys(SEEDS[::-1], window.index)
        rows = using(window, x, both, keys=where, memory=cache)
        x, cache = generate.finished(rows)
        np.testing.assert_allclose(np.asarray(x)[::-1], theirs, atol=1e-5)
        assert np.abs(np.asarray(x) - theirs).max() > 0.1


def test_without_guidance_there_is_one_side():
    film = rolling(2)
    (first, cache), *_ = make(film, using=maker(film, scale=1.0))
    assert cache.key.shape[1] == len(SEEDS)
    assert np.abs(first - blocks(film)[0]).max() > 1e-2


def test_history_may_be_kept_noised():
    film = rolling(2, addnoise_condition=50.0)
    ((x, cache),) = make(film)
    seen = 0.95 * x + 0.05 * condition_noise(keys(SEEDS, 0), STEPS, x.shape[1:])
    window = cache_window(CONFIG, rolling=film.rolling, sinks=film.sink_frames)
    known = {
        "text": jax.jit(functools.partial(text_kv, model()))(**told("a")[0]),
        "cache": maker(film, scale=1.0).start(len(SEEDS), SIZE[:2]),
        "place": place_block(window, 0, head_dim=CONFIG.attention_head_dim),
    }
    run = jax.jit(functools.partial(block_velocity, model(), window=window))
    _, new = run(seen, jnp.full(seen.shape[:2], 50.0), **known)
    written = cache.key[:, len(SEEDS) :, : new.key.shape[2]]
    np.testing.assert_allclose(written, new.key, atol=1e-4)
