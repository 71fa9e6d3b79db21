"""A film on disk: what is written is what was made, whole or not at all."""

import json
import pathlib

import numpy as np
import pytest

from skyreels_jax.core.errors import UserError
from skyreels_jax.pipelines import film as film_module
from skyreels_jax.pipelines.film import Film


def moving_square(*, height=48, width=64, frames=9) -> np.ndarray:
    film = np.full((frames, height, width, 3), (30, 120, 60), np.uint8)
    for t in range(frames):
        film[t, 12:36, 4 + 3 * t : 28 + 3 * t] = (210, 40, 30)
    return film


def read_mp4(path: pathlib.Path):
    import av

    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        codec = stream.codec_context
        facts = {"codec": codec.name, "format": codec.pix_fmt, "rate": stream.average_rate}
        frames = [
            f.reformat(format="rgb24", src_colorspace=f.colorspace).to_ndarray()
            for f in container.decode(video=0)
        ]
    return np.stack(frames), facts


@pytest.mark.parametrize("size", [(48, 64), (49, 63)])
def test_mp4_holds_the_frames(tmp_path, size):
    frames = moving_square(height=size[0], width=size[1])
    path = Film(frames=frames, fps=12, meta={"seed": 3}).save(tmp_path / "new" / "a.mp4")
    read, facts = read_mp4(path)
    assert facts == {"codec": "h264", "format": "yuv420p", "rate": 12}
    assert len(read) == len(frames)
    error = np.abs(read[:, : size[0], : size[1]].astype(int) - frames)
    assert error.mean() < 3  # lossy, chroma at half size; a wrong colour matrix alone gives about 8
    assert json.loads((tmp_path / "new" / "a.json").read_text()) == {"seed": 3}
    data = path.read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")  # players start before the whole file is there


def test_mp4_keeps_fractional_rates(tmp_path):
    path = Film(frames=moving_square(), fps=23.976).save(tmp_path / "a.mp4")
    assert abs(float(read_mp4(path)[1]["rate"]) - 23.976) < 1e-3


def test_gif_holds_the_frames(tmp_path):
    from PIL import Image, ImageSequence

    frames = moving_square()
    path = Film(frames=frames, fps=12).save(tmp_path / "a.gif")
    with Image.open(path) as image:
        assert image.info["duration"] == 80
        read = np.stack([np.asarray(f.convert("RGB")) for f in ImageSequence.Iterator(image)])
    np.testing.assert_array_equal(read, frames)


def test_a_failed_save_leaves_what_was_there(tmp_path, monkeypatch):
    film = Film(frames=moving_square(), fps=12, meta={"take": 1})
    film.save(tmp_path / "a.mp4")
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}

    def torn(path, frames, fps):
        path.write_bytes(b"half a film")
        raise RuntimeError("power cut")

    monkeypatch.setattr(film_module, "write_mp4", torn)
    with pytest.raises(RuntimeError):
        Film(frames=moving_square(), fps=12, meta={"take": 2}).save(tmp_path / "a.mp4")
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


@pytest.mark.parametrize(
    ("name", "message"),
    [("a.avi", "legal endings: .mp4, .gif"), ("file/a.mp4", "cannot write")],
)
def test_impossible_paths(tmp_path, name, message):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(UserError, match=message):
        Film(frames=moving_square(), fps=12).save(tmp_path / name)


@pytest.mark.parametrize("shape", [(48, 64, 3), (0, 48, 64, 3), (9, 48, 64, 4)])
def test_only_films_are_films(shape):
    with pytest.raises(UserError, match="uint8"):
        Film(frames=np.zeros(shape, np.uint8), fps=12)
