"""Videos that films continue: read in constant memory, cut to size, refused when damaged."""

import struct

import numpy as np
import pytest

from skyreels_jax.core.errors import UserError
from skyreels_jax.pipelines.film import Film
from skyreels_jax.pipelines.image import crop_to_aspect
from skyreels_jax.pipelines.video import read_video


def clip(frames=11, height=48, width=64) -> np.ndarray:
    film = np.full((frames, height, width, 3), (30, 120, 60), np.uint8)
    film[:, 12:36, 16:40] = (np.arange(frames) * 10 + 60).astype(np.uint8)[:, None, None, None]
    return film


@pytest.fixture
def path(tmp_path):
    return Film(frames=clip(), fps=12).save(tmp_path / "clip.mp4")


def test_a_file(path):
    video = read_video(path)
    assert (video.num_frames, video.fps, video.path) == (11, 12.0, str(path))
    assert video.first.shape == (48, 64, 3)
    tail = video.tail(5, 48, 64)
    assert np.abs(tail.astype(int) - clip()[-5:]).mean() < 3
    chunks = list(video.chunks(4, 48, 64))
    assert [len(chunk) for chunk in chunks] == [4, 4, 3]
    np.testing.assert_array_equal(np.concatenate(chunks)[-5:], tail)


@pytest.mark.parametrize(
    ("turn", "k"), [((0, 1, -1, 0), -1), ((0, -1, 1, 0), 1), ((-1, 0, 0, -1), 2)]
)
def test_a_film_of_a_phone_is_turned(path, turn, k):
    """The matrix of the track says how players turn the picture (ISO/IEC 14496-12, tkhd)."""
    plain = read_video(path).tail(11, 48, 64)
    data = bytearray(path.read_bytes())
    a, b, c, d = (value << 16 for value in turn)
    matrix = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    start = data.index(b"tkhd") + 4 + 40
    data[start : start + 36] = matrix
    path.write_bytes(data)
    video = read_video(path)
    turned = np.rot90(plain, k, axes=(1, 2))
    assert video.first.shape == turned.shape[1:]
    np.testing.assert_array_equal(video.tail(11, *turned.shape[1:3]), turned)


def test_frames_handed_over():
    video = read_video(clip())
    assert (video.num_frames, video.fps, video.path) == (11, None, None)
    np.testing.assert_array_equal(video.tail(3, 48, 64), clip()[-3:])


def test_frames_are_cut_to_the_aspect_of_the_film():
    frames = np.random.default_rng(0).integers(0, 256, (2, 40, 64, 3), np.uint8)
    tail = read_video(frames).tail(2, 40, 32)
    np.testing.assert_array_equal(tail[1], crop_to_aspect(frames[1], 40, 32))
    assert read_video(frames).tail(1, 16, 16).shape == (1, 16, 16, 3)


def test_what_is_no_video(tmp_path, path):
    with pytest.raises(UserError, match="no such file"):
        read_video(tmp_path / "absent.mp4")
    other = tmp_path / "other.mp4"
    other.write_bytes(b"not a video")
    with pytest.raises(UserError, match="cannot read video"):
        read_video(other)
    whole = path.read_bytes()
    for share in (300, len(whole) * 2 // 3, len(whole) - 10):
        other.write_bytes(whole[:share])
        with pytest.raises(UserError, match="cannot read video|holds no video|has no frames"):
            read_video(other)
    with pytest.raises(UserError, match=r"uint8 \[F, H, W, 3\], got ndarray float64"):
        read_video(np.zeros((2, 8, 8, 3)))
    with pytest.raises(UserError, match="got int"):
        read_video(7)
