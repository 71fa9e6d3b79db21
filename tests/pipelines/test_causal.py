"""Causal films: cached equals uncached, block after block at constant cost, and they go on."""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from skyreels_jax.core.errors import UserError
from skyreels_jax.core.rng import stream
from skyreels_jax.diffusion.guidance import guided
from skyreels_jax.diffusion.plan import Plan, time_grid
from skyreels_jax.diffusion.sample import condition_noise, place, sample_steps
from skyreels_jax.diffusion.solvers import UniPC
from skyreels_jax.models.dit import SkyReelsV2Transformer3D
from skyreels_jax.models.dit.kv_cache import block_velocity, cache_window, place_block, text_kv
from skyreels_jax.pipelines.causal import CausalFilm, CausalSettings, CausalState
from skyreels_jax.testing.micro import TEXT_WIDTH, micro_configs, random_params

BLOCK, FRAMES, STEPS, SCALE, SHIFT = 2, 12, 2, 3.0, 5.0
CONFIG = dataclasses.replace(micro_configs()["transformer"], num_frame_per_block=BLOCK)
SIZE, SEEDS = (4, 4, CONFIG.in_channels), (3, 4)
SETTINGS = CausalSettings(
    window=cache_window(CONFIG, rolling=FRAMES - BLOCK),
    inference_steps=STEPS,
    shift=SHIFT,
    guidance_scale=SCALE,
)
ROLLING = dataclasses.replace(SETTINGS, window=cache_window(CONFIG, rolling=2, sinks=2))


@functools.cache
def model() -> SkyReelsV2Transformer3D:
    abstract = nnx.eval_shape(lambda: SkyReelsV2Transformer3D(CONFIG, rngs=nnx.Rngs(0)))
    params = jax.tree.map(jnp.asarray, random_params("transformer", CONFIG))
    return nnx.merge(nnx.split(abstract)[0], params)


def conditions(scene: str) -> tuple[dict, dict]:
    """Conditions and negative ones of both films; each name has its own."""

    def draw(seed):
        rng = np.random.default_rng(seed)
        context = rng.standard_normal((len(SEEDS), 5, TEXT_WIDTH)).astype(np.float32)
        weight = rng.uniform(0.5, 3, (len(SEEDS), 5)).astype(np.float32)
        return {"context": jnp.asarray(context), "context_weight": jnp.asarray(weight)}

    return draw(ord(scene)), draw(0)


def make(settings: CausalSettings = SETTINGS, **changed) -> CausalFilm:
    options = {"seeds": SEEDS, "size": SIZE, "scene": lambda frame: "a", "encode": conditions}
    return CausalFilm(model(), settings, **options | changed)


def blocks(film: CausalFilm, count: int) -> list[np.ndarray]:
    return [np.asarray(block) for block in itertools.islice(film, count)]


def noise() -> np.ndarray:
    """What the blocks of the films start from, in a row."""
    rows = [
        [jax.random.normal(stream(seed, "noise", f), (BLOCK, *SIZE)) for seed in SEEDS]
        for f in range(0, FRAMES, BLOCK)
    ]
    return np.concatenate([np.stack(row) for row in rows], axis=1)


def uncached(given: np.ndarray | None = None) -> np.ndarray:
    """The whole film under the causal mask in every row, one block after the other."""
    plan = Plan(
        latent_frames=FRAMES,
        inference_steps=STEPS,
        shift=SHIFT,
        ar_step=STEPS,
        causal_block_size=BLOCK,
        prefix=0 if given is None else given.shape[1],
    )
    velocity = guided(model(), *conditions("a"), SCALE)
    *_, last = sample_steps(velocity, place(noise(), prefix=given), time_grid(plan), UniPC())
    return np.asarray(last)


def test_cached_equals_uncached():
    expected = uncached()
    got = np.concatenate(blocks(make(), FRAMES // BLOCK), axis=1)
    assert np.abs(expected).max() > 1  # the tolerance is one of numbers near 1
    np.testing.assert_allclose(got, expected, atol=1e-4)


def test_given_frames_may_end_inside_a_block():
    given = np.asarray(jax.random.normal(jax.random.key(7), (len(SEEDS), 3, *SIZE)))
    made = blocks(make(given=given), 5)
    assert [block.shape[1] for block in made] == [1, 2, 2, 2, 2]
    expected = uncached(given)
    np.testing.assert_array_equal(expected[:, :3], given)
    np.testing.assert_allclose(np.concatenate(made, axis=1), expected[:, 3:], atol=1e-4)


def test_every_block_is_the_same_program_and_the_cache_never_grows(caplog):
    calls = []
    film = make(ROLLING, progress=calls.append)
    next(film)
    size = film.state().key.nbytes
    caplog.clear()
    with jax.log_compiles():
        assert len(blocks(film, 5)) == 5
    assert not [record for record in caplog.records if "ompiling" in record.getMessage()]
    assert film.frames == FRAMES and film.state().key.nbytes == size
    assert calls == [1] * STEPS * 6


def test_compilations_would_be_seen(caplog):
    with jax.log_compiles():
        jax.jit(lambda x: x * 3 + 1)(jnp.ones(7))
    assert [record for record in caplog.records if "ompiling" in record.getMessage()]


def test_a_new_scene_computes_its_text_alone(caplog):
    encoded = []

    def encode(scene):
        encoded.append(scene)
        return conditions(scene)

    plain = blocks(make(ROLLING), 4)
    film = make(ROLLING, encode=encode, scene=lambda frame: "a" if frame < 4 else "b")
    caplog.clear()
    with jax.log_compiles():
        changed = blocks(film, 4)
    assert encoded == ["a", "b"]
    assert not [record for record in caplog.records if "advance" in record.getMessage()]
    for before, after in zip(plain[:2], changed[:2], strict=True):
        np.testing.assert_array_equal(before, after)
    assert np.abs(plain[2] - changed[2]).max() > 1e-2


def test_a_film_goes_on_from_its_state_bit_for_bit():
    film = make(ROLLING)
    blocks(film, 4)
    state = film.state()
    expected = blocks(film, 2)
    kept = [leaf.copy() for leaf in state[1:]]
    resumed = make(ROLLING, state=state)
    for ours, theirs in zip(blocks(resumed, 2), expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    for leaf, copy in zip(state[1:], kept, strict=True):
        np.testing.assert_array_equal(leaf, copy)
    with pytest.raises(UserError, match="resume with the same model and settings"):
        make(SETTINGS, state=state)
    with pytest.raises(UserError, match="3 latent frames"):
        make(ROLLING, state=CausalState(3, state.key, state.value))


def test_films_hang_on_their_own_seed():
    def swapped(scene):
        return jax.tree.map(lambda rows: rows[::-1], conditions(scene))

    expected = blocks(make(ROLLING), 2)
    got = blocks(make(ROLLING, seeds=SEEDS[::-1], encode=swapped), 2)
    for ours, theirs in zip(got, expected, strict=True):
        np.testing.assert_allclose(ours[::-1], theirs, atol=1e-5)
        assert np.abs(ours - theirs).max() > 0.1


def test_without_guidance_there_is_one_side():
    film = make(dataclasses.replace(ROLLING, guidance_scale=1.0))
    (first,) = blocks(film, 1)
    assert film.cache.key.shape[1] == len(SEEDS)
    assert np.abs(first - blocks(make(ROLLING), 1)[0]).max() > 1e-2


def test_history_may_be_kept_noised():
    settings = dataclasses.replace(ROLLING, addnoise_condition=50.0)
    film = make(settings)
    x = jnp.asarray(blocks(film, 1)[0])
    keys = jnp.stack([stream(seed, "history", 0) for seed in SEEDS])
    seen = 0.95 * x + 0.05 * condition_noise(keys, 0, x.shape[1:])
    known = {
        "text": jax.jit(functools.partial(text_kv, model()))(**conditions("a")[0]),
        "cache": jax.tree.map(lambda leaf: leaf[:, len(SEEDS) :], make(ROLLING).cache),
        "place": place_block(ROLLING.window, 0, head_dim=CONFIG.attention_head_dim),
    }
    run = jax.jit(functools.partial(block_velocity, model(), window=ROLLING.window))
    _, new = run(seen, jnp.full(seen.shape[:2], 50.0), **known)
    written = film.cache.key[:, len(SEEDS) :, : new.key.shape[2]]
    np.testing.assert_allclose(written, new.key, atol=1e-4)
