"""Diffusion forcing: what each sort of clip looks like, how they are mixed, what is counted."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from linear_model import SHAPE, Linear, make_batch

from skyreels_jax.core.config import from_dict, to_dict
from skyreels_jax.core.errors import UserError
from skyreels_jax.core.rng import stream
from skyreels_jax.objectives.base import LossOutput, Objective, report
from skyreels_jax.objectives.diffusion_forcing import MIXTURE, DiffusionForcing

FRAMES, CLIPS = 7, 3000


@functools.cache
def levels(*, start=0, given=0, frames=FRAMES, clips=CLIPS, **options):
    """(sigma [B, T], counted [B, T], sorts) as numpy, drawn under jit."""
    objective = DiffusionForcing(**options)
    batch = {
        "latents": jnp.zeros((clips, frames, 1, 1, 1)),
        "start": jnp.full(clips, start, jnp.int32),
        "given": jnp.full(clips, given, jnp.int32),
    }
    out = jax.device_get(jax.jit(objective.draw_levels)(jax.random.key(2), batch))
    shape = (clips, frames)
    return np.broadcast_to(out.sigma, shape), np.broadcast_to(out.counted, shape), out.sorts


def only(sort, **options):
    return levels(**(dict.fromkeys(MIXTURE, 0.0) | {sort: 1.0, "times": "uniform"} | options))


def prefix_lengths(counted):
    """The number of frames that are not counted; asserts that they are the first."""
    lengths = (~counted).sum(1)
    np.testing.assert_array_equal(counted, np.arange(counted.shape[1])[None] >= lengths[:, None])
    return lengths


def test_is_an_objective_and_a_config():
    objective = DiffusionForcing(fopp=1.0, prefix=0.0, equal=1.0, causal_block_size=3)
    assert isinstance(objective, Objective)
    assert to_dict(objective)["name"] == "diffusion_forcing"
    assert from_dict(DiffusionForcing, to_dict(objective)) == objective


def test_equal_times_have_the_base_density():
    sigma, counted, _ = only("equal")
    assert counted.all() and (sigma == sigma[:, :1]).all()
    assert abs(sigma[:, 0].mean() - 0.5) < 0.02
    shifted = only("equal", shift=3.0)[0]
    np.testing.assert_allclose(shifted, 3 * sigma / (1 + 2 * sigma), rtol=1e-5)
    logit = only("equal", times="logit_normal", mean=-0.5, std=0.8)[0][:, 0]
    logit = np.log(logit / (1 - logit))
    assert abs(logit.mean() + 0.5) < 0.05 and abs(logit.std() - 0.8) < 0.05


@pytest.mark.parametrize("timesteps", [1000, 0])
def test_fopp_times_never_fall_and_none_is_clean(timesteps):
    sigma, counted, _ = only("fopp", timesteps=timesteps)
    assert counted.all() and (np.diff(sigma, axis=1) >= 0).all()
    assert sigma.min() > 0 and sigma.max() < 1
    assert sigma[:, 0].mean() < 0.25 and sigma[:, -1].mean() > 0.75
    shifted = only("fopp", timesteps=timesteps, shift=3.0)[0]
    np.testing.assert_allclose(shifted, 3 * sigma / (1 + 2 * sigma), rtol=1e-5)


def test_prefixes_are_clean_or_nearly_and_all_lengths_as_likely():
    sigma, counted, sorts = only("prefix")
    assert sorts["prefix"].all()
    lengths = prefix_lengths(counted)
    shares = np.bincount(lengths, minlength=FRAMES + 1) / CLIPS
    np.testing.assert_allclose(shares, [0] + [1 / (FRAMES - 1)] * (FRAMES - 1) + [0], atol=0.03)
    first = sigma[:, 0]
    assert abs((first == 0).mean() - 0.5) < 0.04
    assert first.max() <= 0.05 and abs(first[first > 0].mean() - 0.025) < 0.002
    assert (np.where(counted, first[:, None], sigma) == first[:, None]).all()
    last = sigma[:, -1:]
    assert (np.where(counted, sigma, last) == last).all()
    assert abs(last.mean() - 0.5) < 0.02
    assert not only("prefix", prefix_noise=0.0)[0][:, 0].any()


@pytest.mark.parametrize("sort", MIXTURE)
def test_blocks_share_times_and_prefixes_are_whole_blocks(sort):
    sigma, counted, _ = only(sort, causal_block_size=3)
    for values in (sigma, counted):
        for start in (0, 3):
            block = values[:, start : start + 3]
            assert (block == block[:, :1]).all()
    if sort == "prefix":
        assert set(prefix_lengths(counted)) == {3, 6}


def test_a_clip_from_the_middle_of_its_film_always_has_a_prefix():
    for sort in MIXTURE:
        sigma, counted, sorts = only(sort, start=4)
        assert sorts["prefix"].all() and prefix_lengths(counted).min() >= 1
        behind = np.where(counted, sigma, np.nan)
        staggered = np.nanmax(behind, axis=1) > np.nanmin(behind, axis=1)
        assert staggered.mean() > 0.7 if sort == "fopp" else not staggered.any()


def test_a_clip_that_turns_has_all_before_the_turn_as_its_prefix():
    for sort in MIXTURE:
        sigma, counted, sorts = only(sort, start=4, given=2)
        assert sorts["prefix"].all() and set(prefix_lengths(counted)) == {2}
        assert set(prefix_lengths(only(sort, given=5)[1])) == {5}
        assert set(prefix_lengths(only(sort, given=2, causal_block_size=3)[1])) == {3}
        assert set(prefix_lengths(only(sort, given=4, causal_block_size=3)[1])) == {6}


def test_the_mixture_has_the_weights_of_the_config():
    sigma, counted, sorts = levels(fopp=2.0, prefix=1.0, equal=1.0)
    shares = {name: clips.mean() for name, clips in sorts.items()}
    assert shares == pytest.approx({"fopp": 0.5, "prefix": 0.25, "equal": 0.25}, abs=0.03)
    assert (sum(clips.astype(int) for clips in sorts.values()) == 1).all()
    assert (sigma[sorts["equal"]] == sigma[sorts["equal"]][:, :1]).all()
    assert (np.diff(sigma[sorts["fopp"]], axis=1) > 0).mean() > 0.9
    np.testing.assert_array_equal(~counted[:, 0], sorts["prefix"])


def test_the_loss_counts_every_noisy_frame_once():
    objective = DiffusionForcing(caption_dropout=0.0, prefix=1.0)
    batch, key = make_batch(6, frames=4), jax.random.key(3)
    model = Linear(SHAPE[-1], 4)
    graphdef, params = nnx.split(model)

    def total(params, batch):
        out = objective(nnx.merge(graphdef, params), batch, key)
        return out.total, out

    (value, out), grads = jax.jit(jax.value_and_grad(total, has_aux=True))(params, batch)

    drawn = jax.jit(objective.draw_levels)(stream(key, "sigma"), batch)
    counted = np.asarray(drawn.counted)
    assert 0 < counted.sum() < counted.size
    data = np.asarray(batch["latents"], np.float64)
    noise = np.asarray(jax.random.normal(stream(key, "noise"), data.shape), np.float64)
    sigma = np.asarray(drawn.sigma, np.float64)[:, :, None, None, None]
    x = (1 - sigma) * data + sigma * noise
    bias = np.asarray(model.bias[...])[np.asarray(batch["cond"]["caption"])]
    residual = x @ np.asarray(model.kernel[...], np.float64) + bias.reshape(-1, 1, 1, 1, 1) + sigma
    residual = (residual - (noise - data)) * counted[:, :, None, None, None]
    error = (residual**2).mean((2, 3, 4))
    np.testing.assert_allclose(value, error.sum() / 4, rtol=1e-5)
    np.testing.assert_allclose(out.weight, counted.sum() / 4, rtol=1e-6)
    want = 2 * np.einsum("bthwc,bthwd->cd", x, residual) / residual[0].size
    np.testing.assert_allclose(grads.kernel[...], want, rtol=1e-4, atol=1e-5)

    reported = report(out.metrics)
    for name in MIXTURE:
        inside = counted * np.asarray(drawn.sorts[name])[:, None]
        if inside.any():
            mean = (error * inside).sum() / inside.sum()
            assert reported[f"mse_{name}"] == pytest.approx(mean, rel=1e-5)
    bins = [out.metrics[f"mse_q{i}:count"] for i in range(4)]
    np.testing.assert_allclose(sum(bins), out.weight, rtol=1e-6)


def test_sums_add_up_over_micro_batches():
    objective, model = DiffusionForcing(), Linear(SHAPE[-1], 4)
    run = jax.jit(lambda batch, key: objective(model, batch, key))
    parts = [run(make_batch(2, frames=4), jax.random.key(s)) for s in (0, 1)]
    both = LossOutput(*jax.tree.map(jnp.add, tuple(parts[0]), tuple(parts[1])))
    assert parts[0].weight != parts[1].weight
    mean = float(both.total) / float(both.weight)
    by_frames = sum(float(p.total) for p in parts) / sum(float(p.weight) for p in parts)
    assert mean == pytest.approx(by_frames)
    assert report({k: v / both.weight for k, v in both.metrics.items()})["mse"] == pytest.approx(
        mean, rel=1e-5
    )


def test_keys_are_used_once():
    with jax.debug_key_reuse(True):
        model, batch = Linear(SHAPE[-1], 4), make_batch(frames=3)
        DiffusionForcing(caption_dropout=0.5)(model, batch, jax.random.key(0))


@pytest.mark.parametrize(
    "bad",
    [
        {"name": "flow_matching"},
        {"fopp": -0.1},
        dict.fromkeys(MIXTURE, 0.0),
        {"prefix_noise": 1.0},
        {"causal_block_size": 0},
        {"timesteps": -1},
        {"shift": 0.0},
    ],
)
def test_bad_values(bad):
    with pytest.raises(UserError):
        from_dict(DiffusionForcing, bad)


def test_one_block_is_refused():
    with pytest.raises(UserError, match="two causal blocks or more; these clips have 3"):
        levels(frames=3, causal_block_size=3)
