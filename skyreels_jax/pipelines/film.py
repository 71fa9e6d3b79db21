"""A finished film: frames, rate, and the request that made it; saved whole or not at all."""

import contextlib
import dataclasses
import json
import os
import pathlib
from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import Any

import numpy as np

from skyreels_jax.core.config import to_dict
from skyreels_jax.core.errors import UserError
from skyreels_jax.core.files import replacing

BT709 = 1  # ITU-T H.273 code for matrix, primaries and transfer
LIMITED_RANGE = 1  # FFmpeg's AVCOL_RANGE_MPEG


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Film:
    """`frames` uint8 [T, H, W, 3], `fps` frames a second, `meta` json-ready: what made it."""

    frames: np.ndarray
    fps: float | int
    meta: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        shape, dtype = np.shape(self.frames), getattr(self.frames, "dtype", None)
        if len(shape) != 4 or shape[3] != 3 or not shape[0] or dtype != np.uint8:
            raise UserError(f"a film is uint8 [T, H, W, 3] with T >= 1, got {dtype} {list(shape)}")

    @property
    def seconds(self) -> float:
        """Returns the running time."""
        return len(self.frames) / self.fps

    def save(self, path: str | os.PathLike) -> pathlib.Path:
        """Writes the film to `path` (.mp4 or .gif) and `meta` beside it as .json; returns the path.

        mp4 is H.264, yuv420p, BT.709, index in front; an odd side grows by one repeated pixel, as
        yuv420p has no odd sides. Files there are replaced; a failure leaves them as they were.
        """
        path = pathlib.Path(path)
        writer = film_writer(path)
        with contextlib.ExitStack() as stack:
            video = stack.enter_context(replacing(path))
            note = stack.enter_context(replacing(sidecar_path(path)))
            writer(video, self.frames, self.fps)
            note.write_text(json.dumps(to_dict(self.meta), ensure_ascii=False, indent=2) + "\n")
        return path


def sidecar_path(path: pathlib.Path) -> pathlib.Path:
    """Returns where `Film.save(path)` puts the json."""
    return path.with_suffix(".json")


def film_writer(path: pathlib.Path) -> Callable[[pathlib.Path, np.ndarray, float | int], None]:
    """Returns the writer for the suffix of `path`; `UserError` if there is none here."""
    suffix = path.suffix.lower()
    if suffix == ".gif":
        return write_gif
    if suffix != ".mp4":
        raise UserError(f"cannot save a film as {path.name!r}; legal endings: .mp4, .gif")
    try:
        import av
    except ImportError:
        raise UserError(
            "writing .mp4 needs ffmpeg, which comes with PyAV: pip install av (.gif needs none)"
        ) from None
    if "libx264" not in av.codecs_available:
        raise UserError(
            "PyAV's ffmpeg lacks libx264: pip install --force-reinstall av (.gif needs none)"
        )
    return write_mp4


def write_mp4(path: pathlib.Path, frames: np.ndarray, fps: float | int) -> None:
    """Encodes `frames` uint8 [T, H, W, 3], tagged so that every player shows the same colours."""
    import av

    with av.open(str(path), "w", format="mp4", options={"movflags": "faststart"}) as container:
        encode_h264(container, frames, fps)


def encode_h264(
    container: Any, frames: np.ndarray, fps: float | int, options: Mapping[str, str] | None = None
) -> Any:
    """Adds `frames` uint8 [T, H, W, 3] to a PyAV container as a video stream, and returns that.

    H.264, yuv420p, BT.709; `options` are x264's. An odd side grows by one repeated pixel.
    """
    import av

    height, width = frames.shape[1:3]
    odd = ((0, 0), (0, height % 2), (0, width % 2), (0, 0))
    frames = np.pad(frames, odd, mode="edge")
    rate = Fraction(fps).limit_denominator(1001)
    stream = container.add_stream("libx264", rate=rate, options={"crf": "14", **(options or {})})
    stream.height, stream.width, stream.pix_fmt = frames.shape[1], frames.shape[2], "yuv420p"
    codec = stream.codec_context
    codec.colorspace = codec.color_primaries = codec.color_trc = BT709
    codec.color_range = LIMITED_RANGE
    for pixels in frames:
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
        frame = frame.reformat(
            format="yuv420p", dst_colorspace=BT709, dst_color_range=LIMITED_RANGE
        )
        container.mux(stream.encode(frame))
    container.mux(stream.encode())
    return stream


def write_gif(path: pathlib.Path, frames: np.ndarray, fps: float | int) -> None:
    """Writes an endless GIF; its clock ticks in 1/100 s, so the rate is rounded to that."""
    from PIL import Image

    images = [Image.fromarray(pixels) for pixels in frames]
    duration = max(20, 10 * round(100 / fps))  # milliseconds; players slow anything under 20 down
    images[0].save(
        path, format="GIF", save_all=True, append_images=images[1:], duration=duration, loop=0
    )
