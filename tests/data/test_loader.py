"""The Grain pipelines: exact position, order by seed, crops and captions."""

import numpy as np
import pytest

from skyreels_jax.core.errors import UserError
from skyreels_jax.core.types import ALL_ROWS, Rows
from skyreels_jax.data.loader import CutLatents, Joined, Labelled, RandomCrop, pipeline


class Clips:
    """Clips whose pixels say where they are: (frame, row, column)."""

    def __init__(self, count=10, frames=9, size=16):
        axes = np.meshgrid(range(frames), range(size), range(size), indexing="ij")
        self.video = np.stack(axes, axis=-1).astype(np.uint8)
        self.count = count

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        return {"video": self.video, "name": "unread"}


class Stored:
    """A latents store of clips that hold their own number, and eighths that count the frames."""

    def __len__(self):
        return 12

    def __getitem__(self, index):
        ids = np.full((3, 8), index, np.int32) + 100 * np.arange(3, dtype=np.int32)[:, None]
        latents = np.full((5, 2, 2, 4), index, np.float16)
        latents += np.arange(5, dtype=np.float16)[:, None, None, None] / 8
        return {"latents": latents, "input_ids": ids, "length": np.array([4, 5, 6], np.int32)}


NULL = {"input_ids": np.zeros(8, np.int32), "length": np.int32(1)}


def test_crops_are_contiguous_windows_in_range():
    batches = iter(pipeline(Clips(), RandomCrop(frames=5, size=8), batch=4, seed=0))
    starts = set()
    for _ in range(6):
        batch = next(batches)
        assert set(batch) == {"video"}
        video = batch["video"]
        assert video.shape == (4, 5, 8, 8, 3) and video.dtype == np.float32
        places = np.round((video + 1) * 127.5).astype(int)
        for clip in places:
            start = clip[0, 0, 0]
            grid = np.stack(np.meshgrid(range(5), range(8), range(8), indexing="ij"), axis=-1)
            np.testing.assert_array_equal(clip, grid + start)
            starts.add(tuple(start))
    assert len(starts) > 10


def test_zero_takes_whole_clips_and_too_large_crops_are_refused():
    batch = next(iter(pipeline(Clips(), RandomCrop(frames=0, size=0), batch=2, seed=0)))
    assert batch["video"].shape == (2, 9, 16, 16, 3)
    assert batch["video"].min() == -1 and batch["video"].max() <= 1
    with pytest.raises(UserError, match="cannot cut"):
        RandomCrop(frames=13, size=8).random_map(Clips()[0], np.random.default_rng(0))


def test_position_is_exact_across_epochs():
    data = pipeline(Stored(), CutLatents(NULL), batch=5, seed=1)
    reference = iter(data)
    batches = [next(reference) for _ in range(9)]
    for stop in (0, 1, 4):
        first = iter(data)
        for _ in range(stop):
            next(first)
        second = iter(pipeline(Stored(), CutLatents(NULL), batch=5, seed=1))
        second.set_state(first.get_state())
        for want in batches[stop:]:
            got = next(second)
            np.testing.assert_array_equal(got["latents"], want["latents"])
            np.testing.assert_array_equal(got["cond"]["input_ids"], want["cond"]["input_ids"])


def test_every_clip_comes_once_an_epoch_with_its_own_captions():
    data = iter(pipeline(Stored(), CutLatents(NULL), batch=4, seed=2))
    rows = [next(data) for _ in range(3)]
    numbers = np.concatenate([r["latents"][:, 0, 0, 0, 0] for r in rows]).astype(int)
    assert sorted(numbers) == list(range(12))
    ids = np.concatenate([r["cond"]["input_ids"][:, 0] for r in rows])
    lengths = np.concatenate([r["cond"]["length"] for r in rows])
    np.testing.assert_array_equal(ids % 100, numbers)
    np.testing.assert_array_equal(lengths, 4 + ids // 100)
    assert len(set(lengths.tolist())) > 1
    assert rows[0]["null_cond"]["input_ids"].shape == rows[0]["cond"]["input_ids"].shape
    assert rows[0]["latents"].dtype == np.float32


def test_first_latents_of_a_clip():
    batch = next(iter(pipeline(Stored(), CutLatents(NULL, length=2), batch=3, seed=0)))
    assert batch["latents"].shape == (3, 2, 2, 2, 4)
    assert batch["start"].dtype == np.int32 and not batch["start"].any()
    np.testing.assert_array_equal(batch["latents"][..., 0, 0, 0] % 1, [[0, 1 / 8]] * 3)


def test_windows_from_the_middle_of_clips():
    batches = iter(pipeline(Stored(), CutLatents(NULL, length=3, middle=0.6), batch=12, seed=0))
    starts = []
    for _ in range(40):
        batch = next(batches)
        frames = batch["latents"][:, :, 0, 0, 0] % 1 * 8
        np.testing.assert_array_equal(frames, batch["start"][:, None] + np.arange(3)[None])
        starts.extend(batch["start"].tolist())
    shares = np.bincount(starts) / len(starts)
    np.testing.assert_allclose(shares, [0.4, 0.3, 0.3], atol=0.07)


GROUPS = [(0.6, np.arange(7)), (0.3, np.arange(7, 9)), (0.1, np.arange(9, 12))]


def numbers(data, batches: int) -> list[int]:
    """Returns which clips the next batches hold."""
    return [int(n) for _ in range(batches) for n in next(data)["latents"][:, 0, 0, 0, 0]]


def test_groups_have_their_shares_at_every_moment():
    drawn = numbers(iter(pipeline(Stored(), CutLatents(NULL), batch=12, seed=3, groups=GROUPS)), 20)
    for share, indices in GROUPS:
        counts = np.cumsum(np.isin(drawn, indices))
        expected = share * np.arange(1, len(drawn) + 1)
        assert np.abs(counts - expected).max() < 2
        # Its clips come in rounds: all of them once, then all again in another order.
        own = [n for n in drawn if n in indices]
        rounds = [own[i : i + len(indices)] for i in range(0, len(own), len(indices))]
        assert all(sorted(r) == indices.tolist() for r in rounds[:-1])
        assert len({tuple(r) for r in rounds}) > 1


def test_groups_are_a_function_of_the_seed_and_resume_exactly():
    def opened(seed):
        data = pipeline(
            Stored(), CutLatents(NULL, length=3, middle=0.5), batch=5, seed=seed, groups=GROUPS
        )
        return iter(data)

    whole = [next(data) for data in [opened(1)] for _ in range(12)]
    for stop in (0, 7):
        first = opened(1)
        numbers(first, stop)
        second = opened(1)
        second.set_state(first.get_state())
        for want in whole[stop:]:
            got = next(second)
            np.testing.assert_array_equal(got["latents"], want["latents"])
            np.testing.assert_array_equal(got["cond"]["input_ids"], want["cond"]["input_ids"])
    assert numbers(opened(1), 4) == numbers(opened(1), 4) != numbers(opened(2), 4)


def test_a_single_group_leaves_the_rest_out():
    groups = [(1.0, np.array([2, 3, 5]))]
    drawn = numbers(iter(pipeline(Stored(), CutLatents(NULL), batch=3, seed=0, groups=groups)), 4)
    assert sorted(drawn) == [2, 2, 2, 2, 3, 3, 3, 3, 5, 5, 5, 5]


def test_frame_rates_are_said_with_every_caption():
    rated = Labelled(source=Stored(), labels={"fps": np.arange(12) + 100})
    batch = next(iter(pipeline(rated, CutLatents(NULL), batch=12, seed=0)))
    shown = batch["latents"][:, 0, 0, 0, 0] + 100
    for cond in (batch["cond"], batch["null_cond"]):
        np.testing.assert_array_equal(cond["fps"], shown)
        assert cond["fps"].dtype == np.int32
    assert "fps" not in next(iter(pipeline(Stored(), CutLatents(NULL), batch=2, seed=0)))["cond"]


def test_windows_around_a_turn():
    """All before it is given; behind it is a block at least."""
    turns = np.arange(12) % 4  # 0: none
    source = Labelled(source=Stored(), labels={"turn": turns})
    for block, length in ((1, 3), (2, 3), (2, 5)):
        cut = CutLatents(NULL, length=length, middle=1.0 if length < 5 else 0.0, block=block)
        batches, found = iter(pipeline(source, cut, batch=12, seed=0)), set()
        for _ in range(20):
            batch = next(batches)
            turn = turns[batch["latents"][:, 0, 0, 0, 0].astype(int)]
            found |= set(zip(turn[turn > 0], batch["given"][turn > 0], strict=True))
            np.testing.assert_array_equal(
                (batch["start"] + batch["given"])[turn > 0], turn[turn > 0]
            )
            assert not batch["given"][turn == 0].any()
            assert (batch["start"][turn == 0] > 0).all() == (length < 5)
        legal = {
            (t, g)
            for t in (1, 2, 3)
            for g in range(1, length - block + 1)
            if 0 <= t - g <= 5 - length
        }
        assert found == legal
    late = Labelled(source=Stored(), labels={"turn": np.full(12, 4)})
    with pytest.raises(UserError, match="turns at 4, with less than a block of 2"):
        next(iter(pipeline(late, CutLatents(NULL, length=3, block=2), batch=2, seed=0)))


def test_orders_differ_by_seed_and_empty_sources_are_refused():
    first, second = (
        next(iter(pipeline(Stored(), CutLatents(NULL), batch=12, seed=s)))["latents"][:, 0, 0, 0, 0]
        for s in (0, 1)
    )
    assert not np.array_equal(first, second)
    with pytest.raises(UserError, match="empty"):
        pipeline(Clips(count=0), RandomCrop(frames=0, size=0), batch=1, seed=0)


def test_every_process_reads_its_blocks_of_every_batch():
    def read(rows):
        data = iter(pipeline(Stored(), CutLatents(NULL, length=3), batch=8, seed=0, rows=rows))
        return [next(data)["latents"] for _ in range(4)]

    whole = read(ALL_ROWS)
    for blocks in ((0,), (3,), (0, 2), (1, 2, 3), (0, 1, 2, 3)):
        rows = [2 * block + row for block in blocks for row in range(2)]
        for all_, some in zip(whole, read(Rows(blocks, 4)), strict=True):
            np.testing.assert_array_equal(some, all_[rows])


def test_joined_sources_are_one_after_the_other():
    rows = [{"number": i} for i in range(5)]
    joined = Joined(sources=[rows[:2], [], rows[2:]])
    assert len(joined) == 5 and [joined[i] for i in range(5)] == rows
    with pytest.raises(IndexError):
        joined[5]
