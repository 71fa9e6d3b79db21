"""Buckets: the shapes that clips are cut to, so that batches are of one shape and little is lost.

Two axes, as in SkyReels-V2 (arXiv 2504.13074): duration and aspect ratio. The bins' edges are our
choice, the paper does not state them. All buckets of a resolution have about as many pixels, and
sides of whole patches; a frame's patches can be shared by eight devices.
"""

import dataclasses
import functools
import itertools
import math
import re

from skyreels_jax.core.config import suggest
from skyreels_jax.core.errors import UserError

STRIDE = (4, 8, 8)  # pixels of a latent, in time, height and width
PATCH = 16  # pixels of a patch's side
SHARED = 8  # devices that can share the patches of a frame
# Landscape, as released (540p, 720p) or as near to the name as whole patches go.
RESOLUTIONS = {"256p": (256, 448), "360p": (368, 640), "540p": (544, 960), "720p": (720, 1280)}
ASPECTS = (16 / 9, 4 / 3, 1.0, 3 / 4, 9 / 16)  # width : height
FRAMES = (1, 33, 65, 97, 121)  # 1: images


@dataclasses.dataclass(frozen=True, kw_only=True, order=True)
class Bucket:
    """Clips of `frames` frames (4k + 1) of `height` x `width` pixels (whole patches)."""

    frames: int
    height: int
    width: int

    def __str__(self) -> str:
        return f"{self.frames}x{self.height}x{self.width}"

    @property
    def latents(self) -> tuple[int, int, int]:
        """Latent frames, height and width."""
        t, h, w = STRIDE
        return 1 + (self.frames - 1) // t, self.height // h, self.width // w

    @property
    def tokens(self) -> int:
        """What the transformer makes of a clip."""
        return self.latents[0] * (self.height // PATCH) * (self.width // PATCH)


def sizes(resolution: str) -> tuple[tuple[int, int], ...]:
    """Returns (height, width) for each of `ASPECTS`, or the one that "HEIGHTxWIDTH" names.

    Raises `UserError` for unknown names and sides that are not of whole patches.
    """
    if resolution.lower() in RESOLUTIONS:
        return _sizes(*RESOLUTIONS[resolution.lower()])
    if (named := re.fullmatch(r"(\d+)x(\d+)", resolution)) is None:
        near = suggest(resolution, RESOLUTIONS)
        raise UserError(f"no resolution {resolution!r}{near} (or HEIGHTxWIDTH)")
    height, width = int(named[1]), int(named[2])
    if not height or not width or height % PATCH or width % PATCH:
        raise UserError(f"resolution {resolution}: legal are sides that are multiples of {PATCH}")
    return ((height, width),)


@functools.cache
def _sizes(height: int, width: int) -> tuple[tuple[int, int], ...]:
    def nearest(aspect: float) -> tuple[int, int]:
        return min(
            (
                (h * PATCH, w * PATCH)
                for h, w in itertools.product(range(8, 100), repeat=2)
                if h * w % SHARED == 0
            ),
            key=lambda size: (
                abs(math.log(size[0] * size[1] / (height * width)))
                + abs(math.log(size[1] / size[0] / aspect))
            ),
        )

    middle = tuple(nearest(aspect) for aspect in ASPECTS[1:-1])
    return ((height, width), *middle, (width, height))


def buckets(resolution: str, frames: int) -> tuple[Bucket, ...]:
    """Returns all buckets of a resolution of up to `frames` frames, the smallest first.

    Raises `UserError` for lengths that are not among `FRAMES` and for unknown resolutions.
    """
    if frames not in FRAMES:
        raise UserError(f"clips have {', '.join(map(str, FRAMES))} frames at most, not {frames}")
    lengths = [length for length in FRAMES if length <= frames]
    found = [
        Bucket(frames=length, height=height, width=width)
        for length in lengths
        for height, width in sizes(resolution)
    ]
    return tuple(sorted(found, key=lambda bucket: (bucket.tokens, bucket)))


def fitting(frames: int, height: int, width: int, *, among: tuple[Bucket, ...]) -> Bucket | None:
    """Returns the longest bucket that a clip fills, of the aspect nearest to its own; None where
    it is too short or too small for any.
    """
    fits = [b for b in among if b.frames <= frames and _covers(height, width, b)]
    longest = [b for b in fits if b.frames == max(bucket.frames for bucket in fits)]
    aspect = math.log(width / height)
    return min(longest, key=lambda b: abs(math.log(b.width / b.height) - aspect), default=None)


def _covers(height: int, width: int, bucket: Bucket) -> bool:
    """Returns whether a picture can be scaled down (or kept) and cut to a bucket's size."""
    return height >= bucket.height and width >= bucket.width


def clips(bucket: Bucket, *, batch: int, largest: Bucket, multiple: int = 1) -> int:
    """Returns how many clips of `bucket` cost about as much as `batch` of `largest`: as many
    tokens, in a multiple of `multiple`.
    """
    count = batch * largest.tokens // bucket.tokens
    return max(count // multiple, 1) * multiple
