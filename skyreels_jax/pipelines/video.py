"""Videos from outside, which films continue: read frame by frame, cut to the size of the film."""

import collections
import dataclasses
import functools
import hashlib
import os
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from jaxtyping import UInt8

from skyreels_jax.core.errors import UserError
from skyreels_jax.pipelines.image import Cut, Pixels, crop_to_aspect, resize

Frames = UInt8[np.ndarray, "F H W 3"]


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Video:
    """A video that was read once, to its end; `first` is its first frame.

    num_frames, fps: None for the rate of frames that were handed over.
    open: a new iterator over its frames, [H, W, 3], upright but otherwise as in the file.
    path: of its file, None if it was handed over. sha256: names the frames.
    """

    num_frames: int
    fps: float | None
    first: Pixels
    open: Callable[[], Iterator[Pixels]]
    sha256: str
    path: str | None = None

    def tail(self, count: int, height: int, width: int) -> Frames:
        """Returns the last `count` frames, cut to the aspect and resized as images are."""
        last = collections.deque(self.open(), maxlen=count)
        return np.stack([fitted(pixels, height, width) for pixels in last])

    def chunks(self, count: int, height: int, width: int) -> Iterator[Frames]:
        """Yields all frames, at most `count` at a time, cut and resized."""
        held = []
        for pixels in self.open():
            held.append(fitted(pixels, height, width))
            if len(held) == count:
                yield np.stack(held)
                held = []
        if held:
            yield np.stack(held)


def fitted(pixels: Pixels, height: int, width: int) -> Cut:
    """Returns the middle of `pixels` at another size."""
    return resize(crop_to_aspect(pixels, height, width), height, width)


def read_video(video: Any) -> Video:
    """Returns the video in a file, or handed over as an array uint8 [F, H, W, 3].

    Raises `UserError` for anything else: a missing or damaged file, one without a picture. The
    whole file is decoded once, in constant memory.
    """
    if isinstance(video, str | os.PathLike):
        return _read_file(pathlib.Path(video).expanduser())
    shape, dtype = np.shape(video), getattr(video, "dtype", None)
    if len(shape) != 4 or shape[3] != 3 or not min(shape) or dtype != np.uint8:
        raise UserError(
            "a video is a file or an array uint8 [F, H, W, 3], "
            f"got {type(video).__name__} {dtype or ''} {list(shape)}"
        )
    frames = np.asarray(video)
    digest = hashlib.sha256()
    for pixels in frames:
        digest.update(np.ascontiguousarray(pixels))
    return Video(
        num_frames=len(frames),
        fps=None,
        first=frames[0],
        open=lambda: iter(frames),
        sha256=digest.hexdigest(),
    )


def _read_file(path: pathlib.Path) -> Video:
    try:
        import av
    except ImportError:
        raise UserError(
            "reading videos needs ffmpeg, which comes with PyAV: pip install av"
        ) from None
    if not path.is_file():
        raise UserError(f"cannot read video {str(path)!r}: no such file")
    open_frames = functools.partial(_frames, path)
    count, first, digest = 0, None, hashlib.sha256()
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise UserError(f"{str(path)!r} holds no video")
            fps = container.streams.video[0].average_rate
        for pixels in open_frames():
            count += 1
            digest.update(np.ascontiguousarray(pixels))
            first = pixels if first is None else first
    except (av.FFmpegError, OSError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"cannot read video {str(path)!r}: {reason}") from None
    if first is None:
        raise UserError(f"video {str(path)!r} has no frames")
    return Video(
        num_frames=count,
        fps=float(fps) if fps else None,
        first=first,
        open=open_frames,
        sha256=digest.hexdigest(),
        path=str(path.resolve()),
    )


def _frames(path: pathlib.Path) -> Iterator[Pixels]:
    import av

    with av.open(str(path)) as container:
        for frame in container.decode(video=0):
            # The file says which colour matrix it was written with; ffmpeg does not look by itself.
            rgb = frame.reformat(format="rgb24", src_colorspace=frame.colorspace).to_ndarray()
            # Phones film lying down, and write by how much players turn it, counterclockwise.
            yield np.rot90(rgb, round(frame.rotation / 90))
