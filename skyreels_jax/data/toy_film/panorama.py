"""The four backgrounds of ToyFilm: periodic painted strips of large, soft, desaturated shapes.

A strip is painted once per process at SUPERSAMPLE points a pixel from signed distances. Nothing in
it is thinner than about ten pixels (a video VAE compresses 8 x 8 pixels into one latent), and every
band of rows carries some horizontal structure, so that panning and zooming can be seen - and
learned - anywhere in the frame.
"""

import functools

import numpy as np
from jaxtyping import Float, UInt8

from skyreels_jax.data.toy_film.world import PANORAMA_WIDTH, SIZE

SUPERSAMPLE = 3
HORIZON = 36.0  # row
SOFTNESS = 1.4  # pixels over which an edge rises

# (red, green, blue) factors of the background and of the subject.
BACKGROUND_LIGHT = {"day": (1.0, 1.0, 1.0), "dusk": (0.96, 0.69, 0.58), "night": (0.36, 0.43, 0.66)}
SUBJECT_LIGHT = {"day": (1.0, 1.0, 1.0), "dusk": (1.0, 0.9, 0.85), "night": (0.82, 0.82, 0.82)}

# A layer is (kind, colour, *numbers in pixels); later layers cover earlier ones.
#   ellipse: centre x, centre y, half width, half height
#   cone: apex x, apex y, half width at the base, base y (a triangle)
#   mesa: centre x, top y, half width at the top, half width at the base, base y
#   cloud: centre x, base y, size (three ellipses)
_SKY = {
    "meadow": ((150, 186, 208), (206, 222, 222)),
    "desert": ((198, 184, 164), (238, 222, 190)),
    "city": ((138, 142, 160), (196, 194, 198)),
    "snow": ((120, 156, 192), (196, 214, 228)),
}
_GROUND = {
    "meadow": ((142, 168, 104), (104, 136, 82)),
    "desert": ((214, 180, 130), (184, 146, 102)),
    "city": ((112, 110, 118), (78, 78, 88)),
    "snow": ((228, 234, 240), (196, 210, 224)),
}
_LAYERS = {
    "meadow": (
        ("cloud", (238, 240, 238), 30, 12, 9),
        ("cloud", (232, 236, 236), 92, 17, 11),
        ("ellipse", (120, 150, 100), 20, 42, 34, 16),
        ("ellipse", (132, 160, 106), 84, 44, 40, 15),
        ("ground",),
        ("ellipse", (168, 184, 118), 52, 56, 20, 6),
        ("ellipse", (84, 116, 74), 112, 53, 18, 6),
        ("tree", (62, 92, 62), 8, 40, 9),
        ("tree", (72, 104, 64), 62, 42, 11),
        ("tree", (54, 84, 60), 101, 39, 8.5),
    ),
    "desert": (
        ("ellipse", (250, 240, 214), 50, 13, 8, 8),
        ("cloud", (226, 214, 196), 100, 13, 9),
        ("mesa", (168, 118, 92), 16, 18, 10, 17, 38),
        ("mesa", (150, 104, 86), 74, 24, 15, 21, 38),
        ("mesa", (176, 128, 98), 110, 27, 7, 11, 38),
        ("ground",),
        ("ellipse", (228, 198, 150), 44, 42, 26, 9),
        ("ellipse", (156, 118, 86), 94, 50, 22, 7),
        ("ellipse", (164, 126, 90), 14, 58, 18, 6),
    ),
    "city": (
        ("cloud", (216, 216, 220), 32, 13, 10),
        ("cloud", (208, 208, 214), 104, 10, 9),
        ("box", (124, 124, 140), 4, 24, 10),
        ("box", (128, 126, 138), 58, 28, 12),
        ("box", (118, 120, 138), 92, 22, 9),
        ("box", (66, 68, 86), 20, 14, 8),
        ("box", (84, 78, 88), 44, 22, 7),
        ("box", (58, 62, 80), 74, 8, 8),
        ("box", (76, 76, 92), 112, 18, 10),
        ("ground",),
        ("ellipse", (140, 138, 142), 30, 52, 20, 6),
        ("ellipse", (60, 60, 70), 94, 54, 22, 6),
    ),
    "snow": (
        ("cloud", (222, 230, 236), 60, 10, 9),
        ("peak", (98, 116, 144), 18, 9, 25, 40),
        ("peak", (116, 132, 158), 50, 18, 20, 40),
        ("peak", (90, 108, 136), 90, 5, 29, 40),
        ("peak", (120, 136, 160), 122, 20, 17, 40),
        ("ground",),
        ("ellipse", (170, 188, 210), 26, 54, 22, 6),
        ("ellipse", (176, 194, 214), 92, 47, 18, 5),
        ("cone", (66, 88, 96), 60, 28, 9, 50),
        ("cone", (58, 80, 92), 118, 33, 10, 56),
    ),
}


class _Canvas:
    """A periodic strip of colour that shapes are painted on, one signed distance at a time."""

    def __init__(self):
        step = np.arange(SUPERSAMPLE * PANORAMA_WIDTH, dtype=np.float32)
        self.x = ((step + 0.5) / SUPERSAMPLE)[None, :]
        self.y = ((step[: SUPERSAMPLE * SIZE] + 0.5) / SUPERSAMPLE)[:, None]
        self.pixels = np.zeros((self.y.size, self.x.size, 3), np.float32)

    def dx(self, x: float | int) -> np.ndarray:
        """Horizontal distance to `x`, shortest way round the strip."""
        return np.mod(self.x - x + PANORAMA_WIDTH / 2, PANORAMA_WIDTH) - PANORAMA_WIDTH / 2

    def paint(self, distance: np.ndarray, colour) -> None:
        """Covers the points of negative signed distance with `colour`."""
        alpha = np.clip(0.5 - distance / SOFTNESS, 0, 1)[..., None]
        self.pixels += alpha * (np.asarray(colour, np.float32) - self.pixels)

    def gradient(self, top: float | int, bottom: float | int, colours) -> np.ndarray:
        """Returns a vertical blend of two colours between two rows."""
        share = np.clip((self.y - top) / (bottom - top), 0, 1)[..., None]
        first, last = np.asarray(colours, np.float32)
        return first + share * (last - first)

    def ellipse(self, x, y, half_width, half_height) -> np.ndarray:
        dx, dy = self.dx(x) / half_width, (self.y - y) / half_height
        length = np.sqrt(dx * dx + dy * dy) + 1e-6
        slope = np.sqrt((dx / half_width) ** 2 + (dy / half_height) ** 2) + 1e-6
        return (length - 1) * length / slope  # first-order distance

    def mesa(self, x, top, half_top, half_base, base) -> np.ndarray:
        width = half_top + (half_base - half_top) * (self.y - top) / (base - top)
        lean = np.hypot(1, (half_base - half_top) / (base - top))
        return np.maximum(
            np.maximum((np.abs(self.dx(x)) - width) / lean, top - self.y), self.y - base
        )

    def cone(self, x, apex, half_width, base) -> np.ndarray:
        return self.mesa(x, apex, 0.0, half_width, base)


def _draw(canvas: _Canvas, name: str, kind: str, colour=None, *numbers) -> None:
    if kind == "ground":
        canvas.paint(
            HORIZON - canvas.y + 0 * canvas.x, canvas.gradient(HORIZON, SIZE, _GROUND[name])
        )
    elif kind == "cloud":
        x, base, size = numbers
        parts = ((0, 0.35, 1.15, 0.8), (-1.05, 0.15, 0.95, 0.55), (1.1, 0.1, 1.05, 0.6))
        puffs = [
            canvas.ellipse(x + a * size, base - b * size, c * size, d * size)
            for a, b, c, d in parts
        ]
        canvas.paint(np.minimum.reduce(puffs), colour)
    elif kind == "tree":
        x, base, size = numbers
        trunk = canvas.mesa(x, base - size, 0.2 * size, 0.28 * size, base + 0.8 * size)
        canvas.paint(trunk, (104, 86, 70))
        canvas.paint(canvas.ellipse(x, base - 0.7 * size, size, 1.1 * size), colour)
    elif kind == "box":
        x, top, half = numbers
        canvas.paint(canvas.mesa(x, top, half, half, HORIZON + 4), colour)
    elif kind == "peak":
        x, apex, half, base = numbers
        outline = canvas.cone(x, apex, half, base)
        canvas.paint(outline, colour)
        snowline = apex + 0.36 * (base - apex) + 2.0 * np.cos(canvas.dx(x) * np.pi / 5)
        canvas.paint(np.maximum(outline, canvas.y - snowline), (236, 240, 244))
    else:
        canvas.paint(getattr(canvas, kind)(*numbers), colour)


@functools.cache
def panorama(environment: str, lighting: str) -> Float[np.ndarray, "rows columns 3"]:
    """Returns the strip of one place and light, 0..255, SUPERSAMPLE points a pixel, read-only."""
    canvas = _Canvas()
    canvas.pixels += canvas.gradient(0, HORIZON, _SKY[environment])
    for layer in _LAYERS[environment]:
        _draw(canvas, environment, *layer)
    strip = canvas.pixels * np.asarray(BACKGROUND_LIGHT[lighting], np.float32)
    strip.setflags(write=False)
    return strip


def strip_image(environment: str, lighting: str) -> UInt8[np.ndarray, "64 128 3"]:
    """Returns the strip at one point a pixel."""
    fine = panorama(environment, lighting)
    coarse = fine.reshape(SIZE, SUPERSAMPLE, PANORAMA_WIDTH, SUPERSAMPLE, 3).mean((1, 3))
    return np.round(coarse).astype(np.uint8)
