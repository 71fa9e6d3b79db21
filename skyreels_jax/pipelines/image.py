"""Still images from outside: read, turned upright, cut to the aspect of the film, resized."""

import dataclasses
import functools
import hashlib
import os
import pathlib
from typing import Any

import numpy as np
from jaxtyping import UInt8

from skyreels_jax.core.errors import UserError

Pixels = UInt8[np.ndarray, "H W 3"]
Cut = UInt8[np.ndarray, "rows columns 3"]


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Still:
    """An image: `pixels` uint8 [H, W, 3]; `path` of its file, None if it was handed over."""

    pixels: Pixels
    path: str | None = None

    @functools.cached_property
    def sha256(self) -> str:
        """Names the pixels, whatever file holds them."""
        digest = hashlib.sha256(repr(self.pixels.shape).encode())
        digest.update(np.ascontiguousarray(self.pixels))
        return digest.hexdigest()


def read_still(image: Any) -> Still:
    """Returns the image in a file, or handed over as a Pillow image or an array uint8 [H, W, 3].

    Turned as its Exif says, transparency dropped. Raises `UserError` for anything else: a missing
    or damaged file, one that is no image, another array.
    """
    from PIL import Image

    if isinstance(image, str | os.PathLike):
        path = pathlib.Path(image).expanduser()
        return Still(pixels=_read_file(path), path=str(path.resolve()))
    if isinstance(image, Image.Image):
        return Still(pixels=_upright(image))
    shape, dtype = np.shape(image), getattr(image, "dtype", None)
    if len(shape) != 3 or shape[2] != 3 or not min(shape) or dtype != np.uint8:
        raise UserError(
            "an image is a file, a Pillow image or an array uint8 [H, W, 3], "
            f"got {type(image).__name__} {dtype or ''} {list(shape)}"
        )
    return Still(pixels=np.asarray(image))


def _read_file(path: pathlib.Path) -> Pixels:
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as image:
            return _upright(image)
    except UnidentifiedImageError:
        raise UserError(f"{str(path)!r} is not an image that Pillow reads") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise UserError(f"image {str(path)!r} is too large ({error})") from None
    except (OSError, ValueError, SyntaxError, EOFError) as error:  # damage has many names
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"cannot read image {str(path)!r}: {reason}") from None


def _upright(image: Any) -> Pixels:
    from PIL import ImageOps

    return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))


def oriented(pixels: Pixels, height: int, width: int) -> tuple[int, int]:
    """Returns (height, width), swapped where the image is upright and the film is not.

    As in the official `generate_video.py`, whose films lie unless the image stands. A film asked
    for upright stays so.
    """
    stands = pixels.shape[0] > pixels.shape[1]
    return (width, height) if stands and height < width else (height, width)


def crop_to_aspect(pixels: Pixels, height: int, width: int) -> Cut:
    """Returns the largest middle part of the aspect height : width (official `resizecrop`)."""
    high, wide = pixels.shape[:2]
    if high * width > wide * height:
        high, wide = max(1, wide * height // width), wide
    else:
        high, wide = high, max(1, high * width // height)
    top, left = (pixels.shape[0] - high) // 2, (pixels.shape[1] - wide) // 2
    return pixels[top : top + high, left : left + wide]


def resize(pixels: Pixels, height: int, width: int) -> Cut:
    """Returns the image at another size (Lanczos, as in diffusers' `VideoProcessor`)."""
    from PIL import Image

    if pixels.shape[:2] == (height, width):
        return pixels
    image = Image.fromarray(pixels).resize((width, height), resample=Image.Resampling.LANCZOS)
    return np.asarray(image)
