"""`skyreels-jax data encode`: a folder of videos to features, stopped, in parts, refused."""

import dataclasses
import os
import signal

import jax.numpy as jnp
import numpy as np
import pytest
from own_videos import encode

from skyreels_jax.cli.main import main
from skyreels_jax.core.errors import UserError
from skyreels_jax.data.buckets import Bucket, buckets
from skyreels_jax.data.features.manifest import read_manifest
from skyreels_jax.data.features.record import padded
from skyreels_jax.data.features.sets import read_features
from skyreels_jax.data.video_folder.captions import Entry
from skyreels_jax.data.video_folder.clips import plan
from skyreels_jax.models.umt5.text import compact_context
from skyreels_jax.pipelines.encoders import LoadedEncoders, open_encoders
from skyreels_jax.testing.micro import micro_configs, write_micro_model
from skyreels_jax.testing.videos import write_video

STILL, FILM, LONG = (Bucket(frames=frames, height=32, width=48) for frames in (1, 33, 65))


def records(folder):
    """Returns all samples by bucket, in an order that does not hang on how they were made."""
    sets = read_features([folder])
    return {
        bucket: sorted((table[i] for i in range(len(table))), key=lambda s: s["latents"].tobytes())
        for bucket, table in sets.tables.items()
    }


def assert_same(first, second):
    assert first.keys() == second.keys()
    for bucket in first:
        assert len(first[bucket]) == len(second[bucket])
        for one, other in zip(first[bucket], second[bucket], strict=True):
            np.testing.assert_array_equal(one["latents"], other["latents"])
            for x, y in zip(one["context"], other["context"], strict=True):
                np.testing.assert_array_equal(x, y)
            assert (one["fps"], one["subject_type"]) == (other["fps"], other["subject_type"])


def test_features_are_what_the_model_makes_of_clips(own_videos, micro_folder, own_features):
    sets = read_features([own_features])
    assert list(sets.tables) == [STILL, FILM, LONG] and sets.made.channels == 4
    assert sets.tables[LONG][0]["latents"].shape == (17, 4, 6, 4)
    table = sets.tables[FILM]
    assert len(table) == 3 and sorted(table.fps) == [16, 24, 24]
    assert sorted(table.subject_types) == ["Animal", "Human", "none"]
    samples = [table[i] for i in range(3)]
    for index, sample in enumerate(samples):
        assert sample["latents"].shape == (9, 4, 6, 4) and sample["latents"].dtype == np.float16
        assert sample["fps"] == table.fps[index]
        assert (sample["subject_type"] or "none") == table.subject_types[index]
    # Two paraphrases of real tokens alone, which the transformer reads as it does a prompt's.
    loaded = open_encoders(str(micro_folder)).load()
    (first, second), *_ = (s["context"] for s in samples if len(s["context"]) == 2)
    expected = loaded.states("a red ring moves slowly to the right")
    assert len(first) == 4 and second.shape == expected.shape == (9, 32)
    np.testing.assert_allclose(second.astype(np.float32), expected, rtol=2**-8)
    assert sets.tokens == 9 and len(sets.null) == 1
    human = next(s for s in samples if s["subject_type"] == "Human")
    (clip,) = plan(own_videos, [Entry(file="c.mp4", captions=("x",))], buckets("32x48", 33)).clips
    latents = loaded.latents(clip.read())
    np.testing.assert_allclose(human["latents"], latents, rtol=1e-3, atol=1e-3)


def test_padded_is_the_compact_context_of_the_pipelines():
    states = np.random.default_rng(0).normal(size=(2, 8, 3)).astype(np.float32)
    context, weight = compact_context(jnp.asarray(states), jnp.array([5, 2]), max_length=20)
    for row, length in enumerate((5, 2)):
        made = padded(states[row, :length], 8, max_length=20)
        np.testing.assert_array_equal(made["context"], context[row])
        np.testing.assert_array_equal(made["context_weight"], weight[row])
    full = padded(states[0], 8, max_length=8)
    assert full["context_weight"].tolist() == [1] * 8


def test_a_stopped_run_goes_on_and_nothing_is_made_twice(
    own_videos, micro_folder, own_features, tmp_path, monkeypatch, capfd
):
    made, latents = [], LoadedEncoders.latents

    def counted(self, clip):
        made.append(clip.shape)
        if len(made) in (2, 4):
            os.kill(os.getpid(), signal.SIGTERM)
        if len(made) == 5:
            raise MemoryError
        return latents(self, clip)

    monkeypatch.setattr(LoadedEncoders, "latents", counted)
    assert encode(own_videos, micro_folder, tmp_path) == 130
    assert "the same command goes on from here" in capfd.readouterr().err
    manifest = read_manifest(tmp_path / "part-1-of-1")
    assert len(manifest.ids) == 2 and not manifest.done
    with pytest.raises(UserError, match="not finished: give `data encode` --part 1/1 again"):
        read_features([tmp_path])
    assert encode(own_videos, micro_folder, tmp_path) == 130
    with pytest.raises(MemoryError):
        encode(own_videos, micro_folder, tmp_path)
    assert encode(own_videos, micro_folder, tmp_path) == 0
    assert len(made) == 7  # six clips, and one that was not kept
    assert_same(records(tmp_path), records(own_features))
    # Now there is nothing left to do.
    assert encode(own_videos, micro_folder, tmp_path) == 0 and len(made) == 7


def test_parts_are_a_whole(own_videos, micro_folder, own_features, tmp_path, capfd):
    assert encode(own_videos, micro_folder, tmp_path, part="2/2") == 0
    assert encode(own_videos, micro_folder, tmp_path, part="1/3") == 2
    assert "is being made in 2 parts: --part I/2" in capfd.readouterr().err
    assert encode(own_videos, micro_folder, tmp_path, part="1/2") == 0
    assert_same(records(tmp_path), records(own_features))


def test_stale_features_are_refused(own_videos, micro_folder, own_features, tmp_path, capfd):
    def refused(*args, **options):
        assert encode(*args, own_features, **options) == 2
        return capfd.readouterr().err.strip().splitlines()[-1]

    vae = dataclasses.replace(micro_configs()["vae"], latents_mean=(0.0,) * 4)
    other = write_micro_model(tmp_path / "other", vae=vae)
    assert "were made otherwise (encoders " in refused(own_videos, other)
    assert "resolution 32x48 -> 32x32" in refused(own_videos, micro_folder, resolution="32x32")
    moved = tmp_path / "moved"
    moved.mkdir()
    write_video(moved / "z.mp4", frames=34)
    (moved / "z.txt").write_text("a ring")
    assert "holds 6 clips of other videos or captions" in refused(moved, micro_folder)


def test_what_was_left_out_is_told(own_videos, micro_folder, own_features, tmp_path, capfd):
    assert encode(own_videos, micro_folder, own_features) == 0
    out = capfd.readouterr().out
    assert "6 clips (frames x height x width): 2 of 1x32x48, 3 of 33x32x48, 1 of 65x32x48" in out
    assert "left out: 1 broken (d.mp4: " in out
    assert list(read_manifest(own_features / "part-1-of-1").broken) == ["d.mp4"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"resolution": "541p"}, "no resolution '541p'; did you mean '540p'?"),
        ({"resolution": "30x48"}, "multiples of 16"),
        ({"num_frames": 34}, "1, 33, 65, 97, 121 frames at most, not 34"),
        ({"videos": "/nowhere"}, "no folder of videos '/nowhere'"),
        ({"captions": "/nowhere.jsonl"}, "no captions file"),
        ({"model": "/nowhere"}, "no such model folder"),
        ({"part": "3/2"}, "--part '3/2': legal are 1/N to N/N"),
        ({"resolution": "64x64"}, "fits a bucket of 64x64"),
    ],
)
def test_bad_input_is_one_line(own_videos, micro_folder, tmp_path, capfd, options, message):
    out = tmp_path / "out"
    assert encode(**{"videos": own_videos, "model": micro_folder, "out": out, **options}) == 2
    error = capfd.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("skyreels-jax: ") and message in error
    assert not out.exists()


def test_needed_flags(capfd):
    assert main(["data", "encode"]) == 2
    assert "data encode needs --videos" in capfd.readouterr().err
    assert main(["data", "show", "--part", "1/2"]) == 2
    assert "data show does not read --part" in capfd.readouterr().err
