"""Films that grow: playable after each window, cut back to any, the same file however they grew."""

import numpy as np
import pytest

from skyreels_jax.core.errors import UserError
from skyreels_jax.pipelines import fragments

pytestmark = pytest.mark.usefixtures("encoded_once")


def moving_square(frames: int, *, height=32, width=48, start=0) -> np.ndarray:
    film = np.full((frames, height, width, 3), (30, 120, 60), np.uint8)
    for t in range(frames):
        left = (start + t) % 24
        film[t, 8:24, left : left + 16] = (210, 40, 30)
    return film


def read(path) -> tuple[np.ndarray, list[int]]:
    """Returns all frames, and when they are shown, in frames."""
    import av

    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        frames = list(container.decode(video=0))
        times = [round(frame.pts * stream.time_base * stream.average_rate, 3) for frame in frames]
    pixels = [f.reformat(format="rgb24", src_colorspace=f.colorspace).to_ndarray() for f in frames]
    return np.stack(pixels), times


WINDOWS = [moving_square(9), moving_square(8, start=9), moving_square(4, start=17)]


@pytest.fixture
def film(tmp_path):
    """A film of three windows; after each the file was read."""
    path, at = tmp_path / "new" / "film.mp4", 0
    for window in WINDOWS:
        fragments.append(path, window, 24, at=at)
        at += len(window)
        pixels, times = read(path)
        assert times == list(range(at))
        made = np.concatenate(WINDOWS)[:at]
        assert np.abs(pixels.astype(int) - made).mean() < 3  # lossy, chroma at half size
    return path


def test_a_film_plays_after_each_window(film):
    assert read(film)[0].shape == (21, 32, 48, 3)


@pytest.mark.parametrize("fps", [8, 12.0, 23.976, 30])
def test_times_at_other_rates(tmp_path, fps):
    path = tmp_path / "film.mp4"
    fragments.append(path, WINDOWS[0], fps, at=0)
    fragments.append(path, WINDOWS[1], fps, at=9)
    assert read(path)[1] == list(range(17))


@pytest.mark.parametrize("tail", [b"", b"\0", b"\0\0\1\0moof\0\0", b"\0" * 99])
def test_a_crash_loses_what_was_being_written(film, tail):
    whole = film.read_bytes()
    fragments.cut(film, 17)
    half = film.read_bytes()
    assert whole.startswith(half) and len(read(film)[1]) == 17
    film.write_bytes(half + tail)
    fragments.cut(film, 17)
    assert film.read_bytes() == half
    fragments.append(film, WINDOWS[2], 24, at=17)
    assert film.read_bytes() == whole


@pytest.mark.parametrize("missing", [1, 200])
def test_the_half_of_a_window_is_none(film, missing):
    film.write_bytes(film.read_bytes()[:-missing])
    with pytest.raises(UserError, match=r"after 21 frames \(it has 17\)"):
        fragments.cut(film, 21)
    fragments.cut(film, 17)
    assert len(read(film)[1]) == 17


def test_cuts_are_between_windows(film):
    with pytest.raises(UserError, match="ends after 10 frames"):
        fragments.cut(film, 10)
    assert len(read(film)[1]) == 21


def test_odd_sides_grow(tmp_path):
    path = tmp_path / "film.mp4"
    fragments.append(path, moving_square(3, height=33, width=47), 8, at=0)
    assert read(path)[0].shape == (3, 34, 48, 3)


def test_windows_of_another_make_are_refused(film):
    before = film.read_bytes()
    with pytest.raises(UserError, match="another size, rate or encoder"):
        fragments.append(film, moving_square(8, width=64), 24, at=21)
    with pytest.raises(UserError, match="another size, rate or encoder"):
        fragments.append(film, WINDOWS[1], 30, at=21)
    assert film.read_bytes() == before


def test_what_another_program_changed_is_left_alone(film):
    size = film.stat().st_size
    fragments.append(film, WINDOWS[2], 24, at=21, size=size)
    before = film.read_bytes()
    for at, expected in ((25, size), (0, None)):
        with pytest.raises(fragments.Changed, match="stop that one, or give another --out"):
            fragments.append(film, WINDOWS[2], 24, at=at, size=expected)
    with pytest.raises(fragments.Changed):
        fragments.cut(film, 17, size=size)
    assert film.read_bytes() == before
    film.unlink()
    with pytest.raises(fragments.Changed):
        fragments.append(film, WINDOWS[2], 24, at=25, size=len(before))


def test_films_of_another_make_are_told(film):
    before = film.read_bytes()
    assert fragments.check(film, 9, header=fragments.header_of(32, 48, 24)) == len(before)
    for other in ((32, 64, 24), (32, 48, 30)):
        with pytest.raises(UserError, match="another size, rate or encoder"):
            fragments.check(film, 9, header=fragments.header_of(*other))
    assert film.read_bytes() == before


def test_damaged_boxes(film):
    data = bytearray(film.read_bytes())
    place = data.index(b"traf")
    data[place - 4 : place] = (2**31).to_bytes(4, "big")  # longer than what holds it
    film.write_bytes(data)
    with pytest.raises(UserError, match="is a damaged film"):
        fragments.cut(film, 9)


def test_files_that_are_no_films(tmp_path):
    path = tmp_path / "film.mp4"
    with pytest.raises(UserError, match="cannot cut .*No such file"):
        fragments.cut(path, 9)
    path.write_text("not a film at all")
    with pytest.raises(UserError, match=r"it has 0"):
        fragments.cut(path, 9)
    with pytest.raises(UserError, match="cannot write"):
        fragments.append(path / "film.mp4", WINDOWS[0], 24, at=0)
