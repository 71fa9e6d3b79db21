"""Plans: counts and order of rows, equality with diffusers, frames that are given, bad settings."""

import numpy as np
import pytest
from diffusers import SkyReelsV2DiffusionForcingPipeline, UniPCMultistepScheduler
from hypothesis import given, settings
from hypothesis import strategies as st

from skyreels_jax.core.config import from_dict, to_dict
from skyreels_jax.core.errors import UserError
from skyreels_jax.diffusion.grids import synchronous
from skyreels_jax.diffusion.plan import Plan, steps_made, time_grid


@st.composite
def plans(draw):
    """Legal plans without a window."""
    size = draw(st.integers(1, 5))
    suffix = draw(st.integers(0, 2))
    made = size * draw(st.integers(1, 6))
    return Plan(
        latent_frames=made + suffix,
        inference_steps=draw(st.integers(1, 12)),
        shift=draw(st.sampled_from([1.0, 5.0, 8.0])),
        schedule=draw(st.sampled_from(["diffusers", "official"])),
        ar_step=draw(st.integers(0, 15)),
        causal_block_size=size,
        prefix=draw(st.integers(0, made - 1)),
        suffix=suffix,
        addnoise_condition=draw(st.sampled_from([0.0, 20.0])),
    )


@settings(max_examples=60, deadline=None)
@given(plans())
def test_every_frame_makes_all_its_steps_in_order(plan):
    grid, frames = time_grid(plan), plan.latent_frames
    blocks = -(-(frames - plan.suffix - plan.prefix) // plan.causal_block_size)
    rows = plan.inference_steps + (blocks - 1) * min(plan.ar_step, plan.inference_steps)
    assert grid.update.shape == (rows, frames) and plan.rows == rows
    assert all(column.shape == grid.update.shape for column in grid if column is not None)

    made = slice(plan.prefix, frames - plan.suffix)
    np.testing.assert_array_equal(grid.update.sum(0)[made], plan.inference_steps)
    assert (np.diff(grid.update[:, made].astype(int), axis=0) == -1).sum(0).max(initial=0) <= 1
    assert grid.update.any(1).all()  # no row without work
    assert (np.diff(grid.timestep[:, made], axis=0) <= 0).all()
    assert (np.diff(grid.sigma[:, made], axis=1) >= 0).all()  # earlier frames are never noisier
    np.testing.assert_array_equal(grid.sigma[1:], grid.sigma_next[:-1])
    assert (grid.sigma_next[-1] == 0).all()
    done = grid.sigma == 0
    assert not (grid.update & done).any() and not grid.sigma_next[done].any()

    given_frames = np.ones(frames, bool)
    given_frames[made] = False
    assert done[:, given_frames].all()
    level = plan.addnoise_condition
    np.testing.assert_array_equal(grid.timestep[:, : plan.prefix], level)
    assert not grid.timestep[:, plan.prefix :][done[:, plan.prefix :]].any()
    if level and plan.prefix:
        np.testing.assert_array_equal(grid.noised[:, : plan.prefix], np.float32(level / 1000))
        assert not grid.noised[:, plan.prefix :].any()
    else:
        assert grid.noised is None


def test_the_numbers_of_the_paper():
    """30 steps, ar_step 5 and 5 blocks of 5 take 50 rows; with one given block 45."""
    of = {"latent_frames": 25, "inference_steps": 30, "causal_block_size": 5}
    rows = [Plan(**of, ar_step=s, prefix=p).rows for s, p in ((0, 0), (5, 0), (5, 5), (30, 0))]
    assert rows == [30, 50, 45, 150]


def test_synchronous_plans_are_the_synchronous_grid():
    for schedule in ("diffusers", "official"):
        plan = Plan(latent_frames=3, inference_steps=7, shift=8.0, schedule=schedule)
        wide, narrow = time_grid(plan), synchronous(7, shift=8.0, schedule=schedule)
        for column, expected in zip(wide, narrow, strict=True):
            assert (column is None) == (expected is None)
            if column is not None:
                np.testing.assert_array_equal(column, np.repeat(expected, 3, axis=1))
                assert column.dtype == expected.dtype


def test_a_prefix_inside_a_block_keeps_its_frames():
    """The official pipeline drops a first image when blocks are longer than it."""
    made = steps_made(Plan(latent_frames=4, inference_steps=2, causal_block_size=2, prefix=1))
    np.testing.assert_array_equal(made, [[2, 0, 0, 0], [2, 1, 1, 1], [2, 2, 2, 2]])


def test_the_suffix_adds_no_rows():
    of = {"inference_steps": 4, "ar_step": 2, "prefix": 1}
    without = steps_made(Plan(latent_frames=5, **of))
    with_suffix = steps_made(Plan(latent_frames=6, suffix=1, **of))
    np.testing.assert_array_equal(with_suffix[:, :5], without)
    assert (with_suffix[:, 5] == 4).all()


def diffusers_matrix(plan):
    """Returns diffusers' (timesteps, update mask, valid intervals) as arrays."""
    scheduler = UniPCMultistepScheduler(
        use_flow_sigmas=True, flow_shift=plan.shift, prediction_type="flow_prediction"
    )
    scheduler.set_timesteps(plan.inference_steps)
    matrix, _, mask, interval = SkyReelsV2DiffusionForcingPipeline.generate_timestep_matrix(
        None,
        plan.latent_frames,
        scheduler.timesteps,
        plan.latent_frames if plan.base is None else plan.base,
        plan.ar_step,
        plan.prefix,
        plan.causal_block_size,
    )
    return matrix.numpy(), mask.numpy(), np.array(interval)


@pytest.mark.parametrize("causal_block_size", [1, 2, 3])
@pytest.mark.parametrize("ar_step", [0, 1, 3, 7, 9])
def test_follows_diffusers(ar_step, causal_block_size):
    """Where diffusers drops no frames: blocks divide the film and the prefix."""
    cases = [(8.0, 7, 4, 0), (5.0, 7, 4, 1), (1.0, 3, 3, 2), (8.0, 1, 2, 1)]
    for shift, steps, blocks, ready in cases:
        plan = Plan(
            latent_frames=blocks * causal_block_size,
            inference_steps=steps,
            shift=shift,
            ar_step=ar_step,
            causal_block_size=causal_block_size,
            prefix=ready * causal_block_size,
        )
        grid, (matrix, mask, _) = time_grid(plan), diffusers_matrix(plan)
        np.testing.assert_array_equal(grid.timestep, matrix)
        np.testing.assert_array_equal(grid.update, mask)
        assert grid.window is None


@pytest.mark.parametrize(
    ("size", "blocks", "base_blocks", "ready", "ar_step"),
    [(1, 7, 3, 0, 3), (1, 7, 3, 2, 2), (2, 5, 2, 1, 3), (5, 4, 1, 0, 6), (3, 6, 5, 0, 8)],
)
def test_windows_follow_diffusers(size, blocks, base_blocks, ready, ar_step):
    """Where diffusers has a window: the prefix is shorter than it."""
    plan = Plan(
        latent_frames=blocks * size,
        inference_steps=6,
        ar_step=ar_step,
        causal_block_size=size,
        prefix=ready * size,
        base=base_blocks * size,
    )
    grid, (matrix, mask, interval) = time_grid(plan), diffusers_matrix(plan)
    np.testing.assert_array_equal(grid.timestep, matrix)
    np.testing.assert_array_equal(grid.update, mask)
    np.testing.assert_array_equal(grid.window[:, [0, -1]], interval - [[0, 1]])
    assert (np.diff(grid.window, axis=1) == 1).all()


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 4), st.integers(2, 8), st.integers(1, 8), st.integers(1, 9), st.data())
def test_frames_that_move_are_in_sight(size, blocks, base_blocks, steps, data):
    """Also where the prefix is longer than the window, where diffusers' window misses them."""
    plan = Plan(
        latent_frames=blocks * size,
        inference_steps=steps,
        ar_step=data.draw(st.integers(-(-steps // base_blocks), 10)),
        causal_block_size=size,
        prefix=data.draw(st.integers(0, blocks * size - 1)),
        base=base_blocks * size,
    )
    grid = time_grid(plan)
    if base_blocks >= blocks:
        assert grid.window is None
        return
    for window, update in zip(grid.window, grid.update, strict=True):
        assert set(np.flatnonzero(update)) <= set(window)


def test_a_window_longer_than_what_is_left_needs_no_lag():
    grid = time_grid(Plan(latent_frames=8, inference_steps=3, prefix=6, base=4))
    np.testing.assert_array_equal(grid.window, [[4, 5, 6, 7]] * 3)


def test_plans_are_values():
    plan = Plan(latent_frames=5, inference_steps=3, ar_step=2, base=4)
    assert from_dict(Plan, to_dict(plan)) == plan and hash(plan)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"inference_steps": 0}, "inference_steps must be at least 1"),
        ({"shift": 0.0}, "shift must be positive"),
        ({"latent_frames": 0}, "latent_frames 0 .* legal: 1 and more"),
        ({"ar_step": -1}, "ar_step -1 .* legal: 0 and more"),
        ({"causal_block_size": 0}, "causal_block_size 0 .* legal: 1 and more"),
        ({"prefix": 10}, "prefix 10 .* legal: 0 to 9"),
        ({"prefix": -1}, "prefix -1 .* legal: 0 to 9"),
        ({"prefix": 9, "suffix": 1}, "prefix 9 .* legal: 0 to 8"),
        ({"suffix": 10}, "suffix 10 .* legal: 0 to 9"),
        ({"addnoise_condition": -1.0}, "addnoise_condition -1 .* legal: 0 to 999"),
        ({"addnoise_condition": 1000.0}, "legal: 0 to 999"),
        ({"addnoise_condition": float("nan")}, "legal: 0 to 999"),
        ({"causal_block_size": 4}, "causal_block_size 4; nearest legal: 8 or 12"),
        ({"causal_block_size": 4, "prefix": 8}, "nearest legal: 12$"),
        ({"causal_block_size": 12}, "nearest legal: 12$"),
        ({"causal_block_size": 5, "suffix": 1}, "and 1 for the suffix; nearest legal: 6 or 11"),
        ({"base": 5, "ar_step": 1}, "ar_step 1 .* nearest legal: 2, or base 10"),
        ({"base": 5}, "ar_step 0 .* nearest legal: 2, or base 10"),
        ({"base": 5, "causal_block_size": 2, "ar_step": 9}, "base 5 .* nearest legal: 4 or 6"),
        ({"base": 1, "causal_block_size": 2, "ar_step": 9}, "base 1 .* nearest legal: 2$"),
        ({"base": 0}, "base 0 .* nearest legal: 1$"),
        ({"base": -3, "causal_block_size": 2}, "base -3 .* nearest legal: 2$"),
        ({"base": 5, "suffix": 1, "ar_step": 9}, "legal: no suffix, or base 10 and more"),
    ],
)
def test_illegal_settings_name_the_nearest_legal(changed, message):
    with pytest.raises(UserError, match=message):
        Plan(**{"latent_frames": 10, "inference_steps": 8, **changed})
