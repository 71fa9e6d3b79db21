"""Preferences: what is a pair, twins that are comparable, files, and the TFDS dataset."""

import collections
import itertools
import json
import sys

import numpy as np
import pytest

from skyreels_jax.core.errors import UserError
from skyreels_jax.data.loader import pipeline
from skyreels_jax.data.preferences.distortions import DISTORTIONS, distort
from skyreels_jax.data.preferences.labels import relabelled
from skyreels_jax.data.preferences.pair_files import read_pairs
from skyreels_jax.data.preferences.preferences_dataset_builder import (
    preferences,
    read_preferences,
    split_names,
    to_preference,
)
from skyreels_jax.data.preferences.records import SIDES, CutPair, Limits, Preference
from skyreels_jax.data.preferences.subsets import without
from skyreels_jax.data.preferences.twins import Maker, Original, TwinsConfig, twins

SHAPE = (5, 6, 8)
EVEN = {"text_alignment": (1.0, 1.0), "visual_quality": (30.0, 29.0)}


def clip(number=0, shape=SHAPE):
    return np.random.default_rng(number).integers(0, 256, (*shape, 3), np.uint8)


def pair(**changes):
    fields = {"id": "p", "chosen": clip(0), "rejected": clip(1), "label": "better"}
    fields |= {"source": "freeze", "prompt": "A ring.", "scores": EVEN, "strength": 0.5}
    return Preference(**fields | changes)


def originals(count=12):
    return [Original(id=f"c{i}", video=clip(i), prompt=f"clip {i}") for i in range(count)]


def even(video, prompt):
    return {"text_alignment": 1.0, "visual_quality": 30.0}


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"label": "good"}, "label 'good' is not one of better, worse, tie"),
        ({"rejected": clip(0)}, "the same clip; legal: two that differ"),
        ({"rejected": clip(1, (5, 6, 6))}, "5 frames of 6x8 and the rejected one 5 frames of 6x6"),
        ({"chosen": clip(0).astype(np.float32)}, r"chosen clip is float32 .* legal: uint8"),
        ({"strength": 1.5}, "strength 1.5 is out of range; legal: 0 to 1"),
        ({"scores": {"text_alignment": (1.0, 1.0)}}, "for each of text_alignment, visual_quality"),
        ({"scores": EVEN | {"visual_quality": (1.0, float("nan"))}}, "two numbers"),
        ({"scores": EVEN | {"quality": (1.0, 1.0)}}, "did you mean 'visual_quality'"),
    ],
)
def test_what_is_no_pair(changes, complaint):
    with pytest.raises(UserError, match=complaint):
        pair(**changes)


def test_twins_take_kinds_and_strengths_in_turn_and_hang_on_the_seed():
    config = TwinsConfig(kinds=("freeze", "jitter"), strengths=(0.5, 1.0), per_clip=2, seed=7)
    made = list(twins(originals(3), config, score=even))
    assert [(p.source, p.strength) for p in made] == [
        *(("freeze", 0.5), ("jitter", 0.5), ("freeze", 1.0)),
        *(("jitter", 1.0), ("freeze", 0.5), ("jitter", 0.5)),
    ]
    assert made[3].id == "c1/jitter-1-10" and made[3].label == "better"
    np.testing.assert_array_equal(made[3].chosen, clip(1))
    np.testing.assert_array_equal(
        made[3].rejected, distort("jitter", clip(1), strength=1.0, seed=10)
    )
    again = list(twins(originals(3), config, score=even))
    assert all(np.array_equal(a.rejected, b.rejected) for a, b in zip(made, again, strict=True))


def test_only_comparable_pairs_are_kept_and_the_others_are_counted():
    kept_clip = {i.video.tobytes() for i in originals()}

    def score(video, prompt):  # what is not an original is worse on one axis, by the clip's number
        loss = 0 if video.tobytes() in kept_clip else int(prompt.split()[1])
        return {"text_alignment": 1 - 0.2 * (loss == 5), "visual_quality": 30.0 - loss}

    dropped = collections.Counter()
    config = TwinsConfig(kinds=("freeze", "jitter"))
    made = list(twins(originals(), config, score=score, dropped=dropped))
    assert [p.prompt for p in made] == [f"clip {i}" for i in range(4)]
    assert made[2].scores["visual_quality"] == (30.0, 28.0)
    assert dropped == {"visual_quality": 8, "text_alignment": 1}
    wide = TwinsConfig(limits=Limits(visual_quality=20.0, text_alignment=0.5))
    assert len(list(twins(originals(), wide, score=score))) == 12


def test_nothing_left_says_why():
    still = [Original(id="s", video=np.zeros((5, 4, 4, 3), np.uint8), prompt="still")]
    with pytest.raises(UserError, match=r"no pair is left \(dropped: same: 2\); legal: clips"):
        list(twins(still, TwinsConfig(kinds=("freeze", "jitter"), per_clip=2), score=even))
    with pytest.raises(UserError, match="none came"):
        list(twins([], TwinsConfig(), score=even))


def test_kinds_of_a_model_are_made_by_the_callable():
    asked = []

    def make(kind, video, prompt, strength, seed):
        asked.append((kind, prompt, strength, seed))
        return 255 - video

    config = TwinsConfig(kinds=("v2v", "t2v", "freeze"), strengths=(0.3, 0.6), seed=1)
    assert config.variants == [
        *(("v2v", 0.3), ("freeze", 0.3), ("v2v", 0.6), ("freeze", 0.6), ("t2v", 1.0)),
    ]
    maker = Maker(make, lambda video: video // 2)
    made = list(twins(originals(5), config, score=even, maker=maker))
    assert asked == [
        ("v2v", "clip 0", 0.3, 1),
        ("v2v", "clip 2", 0.6, 3),
        ("t2v", "clip 4", 1.0, 5),
    ]
    np.testing.assert_array_equal(made[0].rejected, 255 - clip(0))
    np.testing.assert_array_equal(made[0].chosen, clip(0) // 2)
    # Other kinds need no model, but are shown as its decoder shows clips.
    np.testing.assert_array_equal(made[1].chosen, clip(1) // 2)
    frozen = distort("freeze", clip(1), strength=0.3, seed=2)
    np.testing.assert_array_equal(made[1].rejected, frozen // 2)
    with pytest.raises(UserError, match="v2v is made by a model"):
        list(twins(originals(1), config, score=even))


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"kinds": ("freez",)}, "no distortion 'freez'; did you mean 'freeze'"),
        ({"strengths": (0.0,)}, "strength 0 is out of range"),
        ({"kinds": ()}, "twins need a kind"),
        ({"per_clip": 0}, "per_clip >= 1"),
    ],
)
def test_bad_twins(changes, complaint):
    with pytest.raises(UserError, match=complaint):
        TwinsConfig(**changes)


@pytest.fixture(scope="module")
def builder(tmp_path_factory):
    config = TwinsConfig()
    made = preferences(
        tmp_path_factory.mktemp("tfds"),
        name="twins",
        shape=SHAPE,
        splits={
            "train": lambda: twins(originals(8), config, score=even),
            "validation": lambda: twins(originals(2), config, score=even),
        },
    )
    made.download_and_prepare()
    return made


def test_sets_of_clips_of_two_shapes_are_not_joined(builder, tmp_path):
    small = (5, 4, 8)
    made = pair(chosen=clip(0, small), rejected=clip(1, small))
    other = preferences(tmp_path, name="small", shape=small, splits={"train": lambda: iter([made])})
    other.download_and_prepare()
    folders = [str(builder.data_dir), str(other.data_dir)]
    assert len(without(folders[:1] * 2, ())) == 2 * len(without(folders[:1], ()))
    with pytest.raises(UserError, match=r"one shape, got .*\[5, 6, 8, 3\].*\[5, 4, 8, 3\]"):
        without(folders, ())


def test_the_dataset_holds_what_was_written(builder):
    assert split_names(builder.data_dir) == ["train", "validation"]
    source = read_preferences(builder.data_dir)
    found = {p.id: p for p in map(to_preference, source)}
    wanted = list(twins(originals(8), TwinsConfig(), score=even))
    assert set(found) == {p.id for p in wanted} and {p.source for p in wanted} == set(DISTORTIONS)
    for one in wanted:
        other = found[one.id]
        np.testing.assert_array_equal(other.chosen, one.chosen)
        np.testing.assert_array_equal(other.rejected, one.rejected)
        assert (other.label, other.source, other.prompt) == (one.label, one.source, one.prompt)
        assert other.strength == one.strength and other.scores == one.scores
    assert len(read_preferences(builder.data_dir, split="validation", pixels=False)) == 2
    assert "tensorflow" not in sys.modules


def test_grain_reads_windows_and_resumes_exactly(builder):
    def batches():
        source = read_preferences(builder.data_dir)
        return iter(pipeline(source, CutPair(frames=3), batch=3, seed=1))

    stream = batches()
    first = [next(stream) for _ in range(2)]
    state = stream.get_state()
    rest = [next(stream) for _ in range(5)]
    again = batches()
    again.set_state(state)
    for want in rest:
        got = next(again)
        assert all(np.array_equal(got[name], want[name]) for name in want)
    batch = first[0]
    assert batch["chosen"].shape == (3, 3, 6, 8, 3) and batch["chosen"].dtype == np.float32
    assert batch["label"].dtype == np.int32 and batch["label"].tolist() == [0, 0, 0]
    assert batch["rejected"].min() >= -1 and batch["rejected"].max() <= 1


def test_both_sides_are_cut_at_the_same_frames():
    frames = np.arange(9, dtype=np.uint8)[:, None, None, None] + np.zeros((9, 2, 2, 3), np.uint8)
    record = {"chosen": frames, "rejected": frames + 100, "label": 2}
    starts = set()
    for seed in range(20):
        cut = CutPair(frames=4).random_map(record, np.random.default_rng(seed))
        places = np.round((cut["chosen"][:, 0, 0, 0] + 1) * 127.5).astype(int)
        assert (np.diff(places) == 1).all() and cut["label"] == 2
        np.testing.assert_allclose(cut["rejected"] - cut["chosen"], 100 / 127.5, rtol=1e-5)
        starts.add(places[0])
    assert len(starts) > 3
    whole = CutPair().random_map(record, np.random.default_rng(0))
    assert len(whole["chosen"]) == 9
    with pytest.raises(UserError, match="cannot cut 10 frames out of clips of 9"):
        CutPair(frames=10).random_map(record, np.random.default_rng(0))


def test_both_sides_are_mirrored_alike():
    record = {"chosen": clip(0), "rejected": clip(1), "label": 0}
    mirrors = list(itertools.product((1, -1), repeat=2))
    seen = set()
    for seed in range(24):
        cut = CutPair().random_map(record, np.random.default_rng(seed))
        shown = {side: np.round((cut[side] + 1) * 127.5).astype(np.uint8) for side in SIDES}
        found = [
            (down, right)
            for down, right in mirrors
            if all(np.array_equal(shown[s], record[s][:, ::down, ::right]) for s in SIDES)
        ]
        seen.update(found)
        assert len(found) == 1
    assert seen == set(mirrors)


def test_the_labels_of_people_replace_those_of_twins():
    made = list(relabelled([pair(id="a"), pair(id="b"), pair(id="c")], {"a": "tie", "c": "worse"}))
    assert [(p.id, p.label) for p in made] == [("a", "tie"), ("c", "worse")]


def test_bad_sets(builder, tmp_path):
    with pytest.raises(UserError, match="holds no preferences"):
        read_preferences(tmp_path)
    with pytest.raises(UserError, match="no split 'test'; legal: train, validation"):
        read_preferences(builder.data_dir, split="test")
    for bad, complaint in (
        (
            [pair(), pair(id="q", chosen=clip(0, (9, 6, 8)), rejected=clip(1, (9, 6, 8)))],
            "one shape",
        ),
        ([], "no pair is left"),
    ):
        splits = {"train": lambda bad=bad: bad or twins([], TwinsConfig(), score=even)}
        made = preferences(tmp_path, name="bad", shape=SHAPE, splits=splits)
        with pytest.raises(UserError, match=complaint):
            made.download_and_prepare()


def row(**changes):
    fields = {"chosen": "a.npy", "rejected": "b.npy", "label": "better", "scores": EVEN}
    return fields | changes


@pytest.mark.parametrize(
    ("rows", "complaint"),
    [
        ([row(label="best")], ":1: label 'best' is not one of better, worse, tie"),
        ([row(), row(rejected="c.npy")], ":2: no clip c.npy"),
        ([row(rejected="a.npy")], ":1: chosen and rejected are the same clip"),
        ([row(rejected="small.npy")], ":1: the chosen clip is 5 frames of 6x8 and the rejected"),
        ([row(id="x"), row(id="x")], ":2: a second pair 'x'"),
        ([row(lable="better")], "no field 'lable'; did you mean 'label'"),
        ([{"chosen": "a.npy"}], ":1: PairRow needs rejected, label, scores"),
        ([row(scores={"text_alignment": [1, 1]})], ":1: scores are two numbers"),
        ([row(scores=EVEN | {"visual_quality": "high"})], ":1: scores are two numbers"),
        ([], "holds no pairs; legal"),
    ],
)
def test_files_of_pairs(tmp_path, rows, complaint):
    for name, video in (("a", clip(0)), ("b", clip(1)), ("small", clip(1, (5, 6, 6)))):
        np.save(tmp_path / f"{name}.npy", video)

    def read(path):
        if not path.exists():
            raise UserError(f"no clip {path.name}")
        return np.load(path)

    path = tmp_path / "pairs.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(UserError, match=complaint):
        list(read_pairs(path, read))
    good = row(prompt="A\u2028ring.", source="film", strength=0.5)
    path.write_text(json.dumps(good, ensure_ascii=False))
    (good,) = read_pairs(path, read)
    assert (good.id, good.prompt, good.source, good.strength) == ("1", "A\u2028ring.", "film", 0.5)
    np.testing.assert_array_equal(good.rejected, clip(1))
