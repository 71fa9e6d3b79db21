"""Files as they are: how long, how fast and how large a video is, and its frames."""

import dataclasses
import pathlib
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import numpy as np
from jaxtyping import Float, Int, UInt8

from skyreels_jax.core.errors import UserError

Pixels = UInt8[np.ndarray, "H W 3"]


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Media:
    """A video, or an image: one frame without a rate.

    height, width: upright, of as many square pixels as it has without making any up.
    stamps: when each frame is shown, rising, in units of `unit` seconds.
    fps: frames a second on average; 0: of an image, and of a video of a single frame.
    """

    height: int
    width: int
    stamps: Int[np.ndarray, " F"]
    unit: Fraction
    fps: float

    @property
    def seconds(self) -> Float[np.ndarray, " F"]:
        """When each frame is shown, behind the first one."""
        return (self.stamps - self.stamps[0]) * float(self.unit)


def probe(path: pathlib.Path, *, image: bool) -> Media:
    """Returns what a file is; of a video all packets are read and the first frame is decoded.

    Raises `UserError`, which does not name the file, for one that is missing or broken.
    """
    if not path.is_file():
        raise UserError("no such file")
    if image:
        height, width = read_image(path).shape[:2]
        return Media(height=height, width=width, stamps=np.zeros(1, int), unit=Fraction(1), fps=0.0)
    import av

    try:
        with av.open(str(path)) as container:
            stream = _stream(container)
            shown = (p.pts for p in container.demux(stream) if not p.is_discard)
            stamps = np.array(sorted(pts for pts in shown if pts is not None), int)
        with av.open(str(path)) as container:
            stream = _stream(container)
            frame = next(container.decode(stream), None)
            unit, aspect = stream.time_base, 1.0 if frame is None else _pixel_aspect(stream, frame)
    except (av.FFmpegError, OSError, ValueError) as error:
        raise UserError(str(getattr(error, "strerror", None) or error)) from None
    if frame is None or not len(stamps):
        raise UserError("no frames, or none with a time stamp")
    high, wide = frame.height, frame.width
    if _turns(frame) % 2:
        high, wide = wide, high
    span = float((stamps[-1] - stamps[0]) * unit)
    return Media(
        height=int(high / max(aspect, 1.0)),
        width=int(wide * min(aspect, 1.0)),
        stamps=stamps,
        unit=unit,
        fps=(len(stamps) - 1) / span if span else 0.0,
    )


def read_image(path: pathlib.Path) -> Pixels:
    """Returns an image, turned as its Exif says; raises `UserError` for a broken one."""
    from PIL import Image, ImageOps

    try:
        with Image.open(path) as image:
            return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    except Exception as error:  # damage has many names, and Pillow's plugins raise any of them
        raise UserError(str(getattr(error, "strerror", None) or error)) from None


def read_frames(
    path: pathlib.Path, stamps: Int[np.ndarray, " n"], *, height: int, width: int
) -> UInt8[np.ndarray, "n {height} {width} 3"]:
    """Returns the frames of a video that are shown at `stamps` (rising), cut to a size.

    Raises `UserError`, which does not name the file, where there are none near one of them.
    """
    import av

    near = max((stamps[-1] - stamps[0]) / max(len(stamps) - 1, 1), 1)
    made: list[np.ndarray] = []
    try:
        with av.open(str(path)) as container:
            stream = _stream(container)
            stream.thread_type = "AUTO"
            container.seek(int(stamps[0]), stream=stream)  # the key frame before it
            for frame in _nearest(container.decode(stream), stamps):
                if abs(frame.pts - stamps[len(made)]) > near:
                    seconds = float(stamps[len(made)] * stream.time_base)
                    raise UserError(f"no frame near {seconds:.3f} s")
                # The file says which colours it was written with; ffmpeg does not look by itself.
                rgb = frame.reformat(format="rgb24", src_colorspace=frame.colorspace).to_ndarray()
                upright = np.rot90(rgb, _turns(frame))
                aspect = _pixel_aspect(stream, frame)
                made.append(fitted(upright, height=height, width=width, aspect=aspect))
    except (av.FFmpegError, OSError) as error:
        raise UserError(str(getattr(error, "strerror", None) or error)) from None
    if len(made) < len(stamps):
        raise UserError(f"ends after {len(made)} of {len(stamps)} frames of a clip")
    return np.stack(made)


def fitted(
    pixels: Pixels, *, height: int, width: int, aspect: float = 1.0
) -> UInt8[np.ndarray, "{height} {width} 3"]:
    """Returns the largest middle part of the aspect height : width, scaled to that size.

    aspect: of the pixels, width by height. Scaling down blurs away what is too fine (Lanczos, as
    diffusers' `VideoProcessor`).
    """
    from PIL import Image

    high, wide = pixels.shape[:2]
    scale = min(high / height, wide * aspect / width)  # of the picture to the size, per pixel of it
    part_high, part_wide = height * scale, width * scale / aspect
    top, left = (high - part_high) / 2, (wide - part_wide) / 2
    box = (max(left, 0.0), max(top, 0.0), min(left + part_wide, wide), min(top + part_high, high))
    image = Image.fromarray(np.ascontiguousarray(pixels))
    return np.asarray(image.resize((width, height), Image.Resampling.LANCZOS, box=box))


def _nearest(frames: Iterator[Any], stamps: Int[np.ndarray, " n"]) -> Iterator[Any]:
    """Yields for each of `stamps` the frame that is nearest to it; fewer where frames end."""
    wanted, before = 0, None
    for frame in frames:
        if frame.pts is None:
            continue
        while wanted < len(stamps) and frame.pts >= stamps[wanted]:
            early = before is not None and stamps[wanted] - before.pts < frame.pts - stamps[wanted]
            yield before if early else frame
            wanted += 1
        if wanted == len(stamps):
            return
        before = frame


def _stream(container: Any) -> Any:
    stream = container.streams.best("video")
    if stream is None:
        raise UserError("holds no video")
    return stream


def _turns(frame: Any) -> int:
    """Returns by how many quarters players turn a frame, counterclockwise: phones film lying."""
    return round(frame.rotation / 90)


def _pixel_aspect(stream: Any, frame: Any) -> float:
    """Returns the width of an upright pixel by its height."""
    aspect = float(stream.sample_aspect_ratio or 1)
    return 1 / aspect if _turns(frame) % 2 else aspect
