"""Contact sheets: films as rows of frames, each with its caption under it."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8

COLUMNS = 9
_MARGIN = 16
_PAPER, _INK = (250, 250, 248), (40, 42, 48)


def contact_sheet(
    films: Sequence[UInt8[np.ndarray, "_ _ _ 3"]],
    captions: Sequence[str],
    *,
    columns: int = COLUMNS,
    width: int = 1200,
) -> UInt8[np.ndarray, "_ _ 3"]:
    """Returns one image, `width` pixels wide: a row of `columns` evenly spaced frames for every
    film (first and last frame included), its caption below, wrapped to the width.
    """
    if len(films) != len(captions):
        raise ValueError(f"{len(films)} films but {len(captions)} captions")
    from PIL import Image, ImageDraw, ImageFont

    font = ImageFont.load_default(size=15)
    inner = width - 2 * _MARGIN
    blocks = []
    for film, caption in zip(films, captions, strict=True):
        strip = _strip(film, columns, inner)
        lines = _wrap(caption, inner, font)
        block = Image.new("RGB", (width, strip.height + 20 * len(lines) + 22), _PAPER)
        block.paste(strip, (_MARGIN, 0))
        for i, line in enumerate(lines):
            position = (_MARGIN, strip.height + 4 + 20 * i)
            ImageDraw.Draw(block).text(position, line, fill=_INK, font=font)
        blocks.append(np.asarray(block))
    top = np.broadcast_to(np.uint8(_PAPER), (_MARGIN, width, 3))
    return np.concatenate([top, *blocks])


def shown_frames(
    film: UInt8[np.ndarray, "_ _ _ 3"], columns: int = COLUMNS
) -> UInt8[np.ndarray, "_ _ _ 3"]:
    """Returns copies of the frames that a sheet shows of a film; of these it shows all."""
    return film[np.unique(np.round(np.linspace(0, len(film) - 1, columns)).astype(int))]


def _strip(film: np.ndarray, columns: int, width: int):
    from PIL import Image

    gap = 3
    cell = (width - gap * (columns - 1)) // columns
    height = round(cell * film.shape[1] / film.shape[2])
    strip = Image.new("RGB", (width, height), _PAPER)
    for i, frame in enumerate(shown_frames(film, columns)):
        small = Image.fromarray(frame).resize((cell, height), Image.Resampling.BICUBIC)
        strip.paste(small, (i * (cell + gap), 0))
    return strip


def _wrap(text: str, width: int, font) -> list[str]:
    lines, line = [], ""
    for word in text.split():
        longer = f"{line} {word}".strip()
        if line and font.getlength(longer) > width:
            lines.append(line)
            longer = word
        line = longer
    return [*lines, line]
