"""The subject of a ToyFilm in pixels: colour, place in every frame, shape and size."""

import dataclasses
import functools

import numpy as np
from jaxtyping import Float, UInt8
from scipy import ndimage

from skyreels_jax.data.toy_film import world
from skyreels_jax.data.toy_film.render import subject_alpha, subject_colour
from skyreels_jax.evals.palette import background_distances, colour_cells, distances

_SEEN = 30.0  # pixels: a smaller blob is not a subject
# Area / r^2, mean squared distance from the centroid / r^2, (box centre - centroid) / r.
_MOMENTS = {
    "ring": (0.75 * np.pi, 0.625, 0.0),
    "square": (0.88**2 * 4, 0.88**2 * 2 / 3, 0.0),
    "triangle": (1.15**2 * 0.75 * 3**0.5, 1.15**2 / 4, -0.2875),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Subject:
    """What was seen of the subject.

    Attributes:
        colour: nearest of the world's six; `shape`: best of the world's three.
        cover: [T, 64, 64] the share of each pixel that it covers.
        seen: [T] whether it is there at all.
        centre: [T, 2] (x, y) of its box; `radius`: [T]; both NaN where it is not seen.
        overlap: mean intersection over union of `cover` with the ideal shape at `centre`.
    """

    colour: str
    shape: str
    cover: Float[np.ndarray, "T 64 64"]
    seen: np.ndarray
    centre: Float[np.ndarray, "T 2"]
    radius: Float[np.ndarray, " T"]
    overlap: float


def find_subject(
    frames: UInt8[np.ndarray, "T 64 64 3"], environment: str, lighting: str
) -> Subject | None:
    """Finds the subject against a known background; None if absent from half of the frames."""
    colour, cover = _cover(frames, environment, lighting)
    seen = cover.sum((1, 2)) > _SEEN
    if seen.mean() < 0.5:
        return None
    fits = {shape: _fit(cover[seen], shape) for shape in world.SHAPES}
    shape = min(fits, key=lambda name: fits[name][2].mean())
    centre, radius = np.full((len(frames), 2), np.nan), np.full(len(frames), np.nan)
    centre[seen], radius[seen] = fits[shape][:2]
    ideal = subject_alpha(shape, centre[seen], radius[seen])
    both, either = np.minimum(ideal, cover[seen]), np.maximum(ideal, cover[seen])
    return Subject(
        colour=colour,
        shape=shape,
        cover=cover,
        seen=seen,
        centre=centre,
        radius=radius,
        overlap=float((both.sum((1, 2)) / either.sum((1, 2))).mean()),
    )


def _cover(frames: np.ndarray, environment: str, lighting: str) -> tuple[str, np.ndarray]:
    """Returns the subject's colour, by vote of all that is no background, and its soft cover."""
    off_background, off_colours = _tables(environment, lighting)
    cells = colour_cells(frames)
    counts = np.bincount(cells.ravel(), minlength=len(off_background))
    vote = counts * np.maximum(off_background - off_colours.min(1), 0)
    votes = np.bincount(off_colours.argmin(1), vote, minlength=len(world.COLOURS))
    winner = int(votes.argmax())
    share = off_background / (off_background + off_colours[:, winner] + 1e-3)
    return world.COLOURS[winner], _largest_blobs(np.take(share, cells))


@functools.cache
def _tables(environment: str, lighting: str) -> tuple[np.ndarray, np.ndarray]:
    colours = np.stack([subject_colour(c, lighting) for c in world.COLOURS])
    return background_distances(environment, lighting), distances(colours)


def _largest_blobs(cover: np.ndarray) -> np.ndarray:
    """Keeps each frame's largest region of cover > 1/2 and its rim; stretches the contrast."""
    in_plane = np.zeros((3, 3, 3), bool)
    in_plane[1] = ndimage.generate_binary_structure(2, 1)
    labels, _ = ndimage.label(cover > 0.5, in_plane)
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    size = sizes[labels]
    blob = (size == size.max((1, 2), keepdims=True)) & (labels > 0)
    blob = ndimage.binary_dilation(blob, in_plane)
    return np.clip(1.6 * cover - 0.3, 0, 1) * blob


def _fit(cover: np.ndarray, shape: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Fits `shape` to every frame by moments; returns (centre, radius, relative squared error)."""
    area_ratio, spread_ratio, box_shift = _MOMENTS[shape]
    grid = np.arange(world.SIZE, dtype=np.float32) + 0.5
    area = cover.sum((1, 2))
    x = (cover.sum(1) * grid).sum(1) / area
    y = (cover.sum(2) * grid).sum(1) / area
    spread = (cover.sum(1) * grid**2).sum(1) / area - x**2
    spread += (cover.sum(2) * grid**2).sum(1) / area - y**2
    best = None
    # Two estimates of the radius: blur, filling a ring's hole, spoils one, stray rims the other.
    for radius in (np.sqrt(area / area_ratio), np.sqrt(spread / spread_ratio)):
        centre = np.stack([x, y + box_shift * radius], 1)
        error = ((subject_alpha(shape, centre, radius) - cover) ** 2).sum((1, 2)) / area
        fit = (centre, radius, error)
        best = fit if best is None or error.mean() < best[2].mean() else best
    return best
