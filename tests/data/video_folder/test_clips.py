"""Files to clips: rates, lengths, sizes, turned pictures, broken files."""

from fractions import Fraction

import imageio.v3 as iio
import numpy as np
import pytest

from skyreels_jax.core.errors import UserError
from skyreels_jax.data.buckets import Bucket, buckets
from skyreels_jax.data.video_folder import clips as module
from skyreels_jax.data.video_folder.captions import Entry
from skyreels_jax.data.video_folder.clips import plan
from skyreels_jax.data.video_folder.media import Media, fitted, probe, read_frames
from skyreels_jax.testing.videos import grey, write_video

AMONG = buckets("32x48", 65)


def entries(*names, **options):
    return [Entry(file=name, captions=("x",), **options) for name in names]


def greys(frames):
    return frames[:, 8:24, 30:44].astype(float).mean((1, 2, 3))


def said(found):
    return [(str(clip.bucket), clip.fps) for clip in found.clips]


def test_a_long_film_is_cut_into_clips_as_long_as_they_go(tmp_path):
    write_video(tmp_path / "a.mp4", frames=110)
    found = plan(tmp_path, entries("a.mp4"), AMONG)
    assert said(found) == [("65x32x48", 24), ("33x32x48", 24)]
    frames = np.concatenate([clip.read() for clip in found.clips])
    assert frames.shape == (98, 32, 48, 3) and frames.dtype == np.uint8
    # In order, from the first frame on, across the border between the clips.
    np.testing.assert_allclose(greys(frames), [grey(n) for n in range(98)], atol=4)
    assert frames[:, 8:24, 2:12, 0].min() > 150 and frames[:, 8:24, 2:12, 1].max() < 60


def test_faster_films_lose_frames_and_slow_ones_are_left_out(tmp_path):
    write_video(tmp_path / "fast.mp4", frames=45, fps=30)
    write_video(tmp_path / "film.mp4", frames=40, fps="24000/1001")
    write_video(tmp_path / "half.mp4", frames=70, fps=32)
    write_video(tmp_path / "slow.mp4", frames=70, fps=12)
    names = ("fast.mp4", "film.mp4", "half.mp4", "slow.mp4")
    found = plan(tmp_path, entries(*names), AMONG)
    assert said(found) == [("33x32x48", 24), ("33x32x48", 24), ("33x32x48", 16)]
    assert found.left_out == {module.SLOW: 1} and not found.broken
    fast, film, half = (greys(clip.read()) for clip in found.clips)
    np.testing.assert_allclose(film, [grey(n) for n in range(33)], atol=4)
    np.testing.assert_allclose(half, [grey(2 * n) for n in range(33)], atol=4)
    np.testing.assert_allclose(fast[:5], [grey(n) for n in (0, 1, 2, 4, 5)], atol=4)


def test_parts_of_a_film(tmp_path):
    write_video(tmp_path / "a.mp4", frames=96)
    found = plan(tmp_path, entries("a.mp4", start=1.0, end=2.5), AMONG)
    assert said(found) == [("33x32x48", 24)]
    np.testing.assert_allclose(greys(found.clips[0].read())[0], grey(24), atol=4)
    short = plan(tmp_path, entries("a.mp4", start=1.0, end=2.0), AMONG)
    assert not short.clips and short.left_out == {module.SHORT: 1}


def test_images_are_clips_of_a_frame(tmp_path):
    pixels = np.zeros((100, 60, 3), np.uint8)
    pixels[45:55] = 255
    iio.imwrite(tmp_path / "a.png", pixels)
    iio.imwrite(tmp_path / "small.png", pixels[:20])
    found = plan(tmp_path, entries("a.png", "small.png"), AMONG)
    assert said(found) == [("1x32x48", 24)] and found.left_out == {module.SMALL: 1}
    (frames,) = (clip.read() for clip in found.clips)
    assert frames.shape == (1, 32, 48, 3)
    assert frames[0, 15:17].min() > 200 and frames[0, :8].max() == 0  # the middle was kept


def test_broken_files_are_told_together(tmp_path):
    (tmp_path / "text.mp4").write_text("no video")
    (tmp_path / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    whole = write_video(tmp_path / "a.mp4", frames=40)
    (tmp_path / "cut.mp4").write_bytes(whole.read_bytes()[:-400])
    names = ("text.mp4", "bad.png", "cut.mp4", "nowhere.mp4", "a.mp4")
    found = plan(tmp_path, entries(*names), AMONG)
    assert list(found.broken) == list(names[:4]) and len(found.clips) == 1
    assert found.broken["nowhere.mp4"] == "no such file"


def test_a_film_that_ends_early_is_an_error(tmp_path):
    path = write_video(tmp_path / "a.mp4", frames=40)
    media = probe(path, image=False)
    step = media.stamps[1] - media.stamps[0]
    beyond = np.append(media.stamps, media.stamps[-1] + step * np.arange(1, 4))
    with pytest.raises(UserError, match="ends after 40 of 43 frames"):
        read_frames(path, beyond, height=32, width=48)


def test_sizes_are_upright_and_of_square_pixels(tmp_path):
    wide = write_video(
        tmp_path / "a.avi", frames=3, height=64, width=48, pixel_aspect=Fraction(1, 2)
    )
    media = probe(wide, image=False)
    assert (media.height, media.width) == (64, 24)
    # The middle of a picture whose pixels are half as wide as high: all of its width.
    pixels = np.zeros((64, 48, 3), np.uint8)
    pixels[26:38] = 255
    made = fitted(pixels, height=16, width=32, aspect=0.5)
    assert made.min() > 200
    assert fitted(pixels, height=32, width=12, aspect=0.5)[:10].max() < 60


def test_parts_share_the_files(tmp_path):
    for name in "abc":
        write_video(tmp_path / f"{name}.mp4", frames=34)
    names = [f"{name}.mp4" for name in "abc"]
    halves = [plan(tmp_path, entries(*names), AMONG, part=(index, 2)) for index in range(2)]
    assert [[clip.entry.file for clip in half.clips] for half in halves] == [
        ["a.mp4", "c.mp4"],
        ["b.mp4"],
    ]
    ids = {clip.id for half in halves for clip in half.clips}
    assert len(ids) == 3
    again = plan(tmp_path, entries(*names), AMONG)
    assert {clip.id for clip in again.clips} == ids
    other = [Entry(file="a.mp4", captions=("y",))]
    assert plan(tmp_path, other, AMONG).clips[0].id not in ids


def test_turned_films_stand_upright(tmp_path, monkeypatch):
    """PyAV writes no rotation, so the frames of a lying film are made to say one."""
    path = write_video(tmp_path / "a.mp4", frames=34, height=48, width=64)
    monkeypatch.setattr("skyreels_jax.data.video_folder.media._turns", lambda frame: 1)
    media = probe(path, image=False)
    assert isinstance(media, Media) and (media.height, media.width) == (64, 48)
    found = plan(tmp_path, entries("a.mp4"), (Bucket(frames=33, height=64, width=48),))
    (frames,) = (clip.read() for clip in found.clips)
    # What was on the left is at the bottom after a quarter counterclockwise.
    assert frames[0, 50:62, 8:40, 1].max() < 60 and frames[0, 2:30, 8:40, 1].min() < 30
