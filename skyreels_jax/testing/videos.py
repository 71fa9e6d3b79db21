"""Small videos on disk: each frame says which it is."""

import pathlib
from fractions import Fraction
from typing import Any

import numpy as np


def write_video(
    path: pathlib.Path,
    *,
    frames: int,
    height: int = 32,
    width: int = 48,
    fps: Any = 24,
    codec: str = "mpeg4",
    pixel_aspect: Fraction = Fraction(1),
) -> pathlib.Path:
    """Writes frames whose grey value is 5 more than that of the one before, modulo 200.

    The left third of each is red. fps: anything that `Fraction` takes. A video of "mpeg4" keeps
    greys to within 3 levels.
    """
    import av

    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=Fraction(fps), options={"qscale": "1"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.bit_rate = 4_000_000
        if pixel_aspect != 1:
            stream.codec_context.sample_aspect_ratio = pixel_aspect
        for number in range(frames):
            pixels = np.full((height, width, 3), grey(number), np.uint8)
            pixels[:, : width // 3] = (200, 0, 0)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    return path


def grey(number: int) -> int:
    """Returns the grey of a frame by its number."""
    return 20 + 5 * number % 200
