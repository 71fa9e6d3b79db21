"""The reward model: what it sees, what it refuses, how it is kept."""

import dataclasses
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from scipy import ndimage

from skyreels_jax.core.errors import UserError
from skyreels_jax.core.tree import count_parameters
from skyreels_jax.models.reward import load as folders
from skyreels_jax.models.reward.config import RewardConfig
from skyreels_jax.models.reward.load import RewardCard, load_reward, save_reward
from skyreels_jax.models.reward.matching import matches, mean_cells
from skyreels_jax.models.reward.modeling import MatchingReward, MotionTokens, look
from skyreels_jax.models.reward.protocol import RewardModel

MICRO = RewardConfig(
    **{"num_frames": 9, "size": 16, "reach": 2, "patch": 2, "motion_dim": 8},
    **{"width": 16, "num_heads": 2, "ffn_dim": 16, "num_layers": 2},
)


@pytest.fixture(scope="module")
def network():
    return MatchingReward(MICRO, rngs=nnx.Rngs(0))


score = nnx.jit(lambda network, video: network(video))


@pytest.fixture(scope="module")
def saved(network, tmp_path_factory):
    folder = tmp_path_factory.mktemp("reward")
    card = RewardCard(network=MICRO, mean=0.3, deviation=2.0, left_out=("jitter",))
    save_reward(folder, card, nnx.to_pure_dict(nnx.state(network, nnx.Param)))
    return folder


def films(count, frames=9, seed=0):
    shape = (count, frames, 16, 16, 3)
    return np.random.default_rng(seed).integers(0, 256, shape).astype(np.uint8)


def test_the_default_is_small_and_needs_no_memory_to_describe():
    config = RewardConfig()
    graphdef, abstract = folders.abstract_network(config)
    assert 2e5 < count_parameters(abstract) < 4e5
    assert abstract["blocks"]["mlp"]["up"]["kernel"].shape == (2, 96, 384)
    video = jax.ShapeDtypeStruct((2, 33, 64, 64, 3), jnp.float32)
    out = jax.eval_shape(lambda p, v: nnx.merge(graphdef, p)(v), abstract, video)
    assert out.shape == (2,) and out.dtype == jnp.float32


def textured(seed=0, size=32):
    """A frame of 16 x 16 cells of 2 x 2 pixels, every cell of a colour of its own."""
    cells = np.random.default_rng(seed).uniform(-1, 1, (size // 2, size // 2, 3))
    return cells.repeat(2, 0).repeat(2, 1).astype(np.float32)


def matched(first, second, reach=3):
    one, other = (mean_cells(jnp.asarray(frame)[None, None], 2) for frame in (first, second))
    return np.asarray(matches(one, other, reach=reach))[0, 0]


@pytest.mark.parametrize(("down", "right"), [(0, 0), (2, -1), (-3, 3)])
def test_what_moved_is_found_where_it_went(down, right):
    frame = textured()
    found = matched(frame, np.roll(frame, (2 * down, 2 * right), (0, 1)))[4:-4, 4:-4]
    np.testing.assert_allclose(found[..., 0], down / 3, atol=0.02)
    np.testing.assert_allclose(found[..., 1], right / 3, atol=0.02)
    stays = (down, right) == (0, 0)
    assert (found[..., 4] > 0.9).all() if stays else (found[..., 4] < 0.1).all()
    # The best place is like it: nothing but the floor is left.
    np.testing.assert_allclose(found[..., 3], np.log(4e-3) / 3 + 1, atol=1e-3)
    assert (found[..., 2] > found[..., 3] + 0.5).all() != stays


def test_colours_do_not_matter_and_what_is_nowhere_has_not_moved():
    frame = textured()
    moved = np.roll(frame, 2, 0)
    plain = matched(frame, moved)
    np.testing.assert_allclose(matched(frame[..., ::-1], moved[..., ::-1]), plain, atol=1e-4)
    lost = matched(np.full_like(frame, -1), np.full_like(frame, 1))
    assert np.isfinite(lost).all()
    np.testing.assert_allclose(lost[..., :2], 0, atol=1e-6)


def test_half_a_cell_is_seen():
    """Neighbours share the likelihood of what lies between them."""
    smooth = ndimage.gaussian_filter(textured(size=64), (3, 3, 0)) * 4
    shifts = [matched(smooth, np.roll(smooth, n, 0))[8:-8, 8:-8, 0].mean() * 3 for n in range(5)]
    assert np.diff(shifts).min() > 0.25


def test_tokens_are_told_of_both_lags():
    """Each token of a motion detector that copies its patch is that patch."""
    config = dataclasses.replace(MICRO, merge=1, motion_dim=2 * 5 * 4, width=2 * 5 * 4)
    tokens = MotionTokens(config, rngs=nnx.Rngs(0))
    tokens.motion.kernel[...] = jnp.eye(config.width)
    tokens.merge.kernel[...] = jnp.eye(config.width)
    video = jnp.asarray(films(1), jnp.float32) / 127.5 - 1
    found = np.asarray(tokens(look(video, config)))
    assert found.shape == (1, 2, 16, 40)
    cells = mean_cells(video[:, ::4], 2)
    near, far = (matches(cells[:, :-n], cells[:, n:], reach=2) for n in (1, 2))
    patch = np.asarray(near)[0, 1, 4:6, 2:4], np.zeros((2, 2, 5))  # no frame lies 8 behind it
    seen = np.concatenate(patch, axis=-1).reshape(-1)
    np.testing.assert_allclose(found[0, 1, 9], jax.nn.gelu(seen), rtol=1e-3, atol=1e-3)
    patch = np.asarray(near)[0, 0, 4:6, 2:4], np.asarray(far)[0, 0, 4:6, 2:4]
    seen = np.concatenate(patch, axis=-1).reshape(-1)
    np.testing.assert_allclose(found[0, 0, 9], jax.nn.gelu(seen), rtol=1e-3, atol=1e-3)


def test_it_sees_time_and_motion(network):
    video = jnp.asarray(films(1), jnp.float32) / 127.5 - 1
    still = jnp.broadcast_to(video[:, :1], video.shape)
    # The same motion backwards, earlier, later, and elsewhere is another film each time.
    early = jnp.concatenate([video[:, :5], jnp.broadcast_to(video[:, 4:5], (1, 4, 16, 16, 3))], 1)
    late = jnp.concatenate([still[:, :4], video[:, :5]], 1)
    shown = [video, video[:, ::-1], still, early, late, jnp.roll(video, 4, 3)]
    scores = np.asarray(score(network, jnp.concatenate(shown)))
    assert len(np.unique(np.round(scores, 4))) == 6
    # Films do not look at each other.
    alone = score(network, jnp.concatenate([late] * 6))
    np.testing.assert_allclose(alone, scores[4], rtol=1e-4, atol=1e-5)


def test_shorter_films_are_legal_others_are_not(network):
    assert score(network, jnp.zeros((2, 5, 16, 16, 3))).shape == (2,)
    for shape in ((1, 7, 16, 16, 3), (1, 13, 16, 16, 3), (1, 9, 32, 16, 3), (1, 1, 16, 16, 3)):
        with pytest.raises(UserError, match="sees 5, 9 frames of 16x16; got"):
            network(jnp.zeros(shape))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_layers": 0}, "num_layers must be more than 0"),
        ({"size": 20}, "multiple of cell x patch x merge = 8"),
        ({"num_frames": 8}, "multiple of tube = 4 and one"),
        ({"num_frames": 1}, "multiple of tube = 4 and one"),
        ({"num_heads": 3}, "multiple of num_heads = 3"),
    ],
)
def test_sizes_that_do_not_go_together(changes, message):
    with pytest.raises(UserError, match=message):
        dataclasses.replace(MICRO, **changes)


def test_a_folder_scores_as_the_network_normalised(network, saved):
    model = load_reward(saved)
    assert isinstance(model, RewardModel)
    assert model.card.left_out == ("jitter",)
    videos = films(folders.BATCH + 3)
    found = model.score(videos)
    # A film is scored with its mirror images, and so has their score.
    images = [np.flip(videos, axes) for axes in ((), (2,), (3,), (2, 3))]
    raw = [score(network, jnp.asarray(image, jnp.float32) / 127.5 - 1) for image in images]
    assert np.std(raw, axis=0).min() > 1e-3
    raw = np.mean(raw, axis=0)
    np.testing.assert_allclose(model.score(images[3]), found, atol=1e-5)
    assert found.shape == (folders.BATCH + 3,) and found.dtype == np.float32
    np.testing.assert_allclose(found, (raw - 0.3) / 2, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(model.score(videos[5:7]), found[5:7], atol=1e-6)
    assert model.score(videos[:0]).shape == (0,)
    with pytest.raises(UserError, match="sees 5, 9 frames"):
        model.score(films(1, frames=10))


def test_a_fingerprint_names_weights_and_configuration(saved, tmp_path):
    first = load_reward(saved)
    assert first.fingerprint == load_reward(saved).fingerprint
    save_reward(tmp_path / "a", first.card, first._params)
    assert load_reward(tmp_path / "a").fingerprint == first.fingerprint
    save_reward(tmp_path / "b", dataclasses.replace(first.card, mean=0.4), first._params)
    other = jax.tree.map(lambda leaf: leaf + 1, first._params)
    save_reward(tmp_path / "c", first.card, other)
    seen = {load_reward(tmp_path / name).fingerprint for name in "abc"}
    assert len(seen) == 3


def test_a_run_folder_holds_its_export(saved, tmp_path):
    saved_again = tmp_path / "run" / "export"
    model = load_reward(saved)
    save_reward(saved_again, model.card, model._params)
    assert load_reward(tmp_path / "run").fingerprint == model.fingerprint


def test_other_folders_are_refused(saved, tmp_path):
    model = load_reward(saved)
    with pytest.raises(UserError, match="holds no reward model"):
        load_reward(tmp_path)
    values = json.loads((saved / "config.json").read_text())

    def written(**changes):
        save_reward(tmp_path / "bad", model.card, model._params)
        (tmp_path / "bad" / "config.json").write_text(json.dumps(values | changes))
        return tmp_path / "bad"

    with pytest.raises(UserError, match="known architecture, but 'qwen_vl'; legal: matching"):
        load_reward(written(architecture="qwen_vl"))
    with pytest.raises(UserError, match="known architecture, but 'None'"):
        load_reward(written(architecture=None))
    with pytest.raises(UserError, match="config.json: .*deviation more than 0"):
        load_reward(written(deviation=0))
    with pytest.raises(UserError, match="does not hold this model"):
        load_reward(written(network=values["network"] | {"width": 32}))
    with pytest.raises(UserError, match="did you mean 'network'"):
        load_reward(written(netwrk=1))


def test_a_mean_that_is_none_is_refused():
    with pytest.raises(UserError, match="mean must be a number"):
        RewardCard(network=MICRO, mean=math.nan, deviation=1.0)
