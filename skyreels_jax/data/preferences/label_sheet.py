"""A labelling sheet: one HTML page with pairs side by side that needs no server and no network.

Its labels are saved as .jsonl, which `labels.read_judgements` reads. Which clip is on which side
hangs on the seed and is written into the page and into each line that it saves.
"""

import base64
import hashlib
import importlib.resources
import io
import json
import math
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from skyreels_jax.core.errors import UserError
from skyreels_jax.data.preferences.labels import REASONS
from skyreels_jax.data.preferences.records import Clip, Preference

QUALITY = 92  # of WebP; what it loses is not seen


def label_sheet(
    pairs: Sequence[Preference], *, fps: float | int, seed: int = 0, max_side: int = 256
) -> str:
    """Returns the page, with `pairs` in an order by `seed`.

    fps: frames a second. max_side: in pixels; larger clips are made smaller to fit.
    Raises `UserError` for no pairs, two of one id, and clips of more than one shape.
    """
    if not pairs:
        raise UserError("a labelling sheet needs pairs, and there are none")
    ids = [pair.id for pair in pairs]
    if len(set(ids)) < len(ids):
        raise UserError("two pairs of a labelling sheet have one id; legal: ids that differ")
    shape = pairs[0].chosen.shape
    for pair in pairs:
        if pair.chosen.shape != shape:
            raise UserError(
                f"pair {pair.id!r} has clips of {list(pair.chosen.shape[:3])} (frames, height, "
                f"width), others of {list(shape[:3])}; legal: one shape"
            )
    if not fps > 0 or max_side < 1 or seed < 0:
        raise UserError("legal: fps more than 0, max_side 1 and more, seed 0 and more")
    height, width = _fitting(shape[1], shape[2], max_side)
    columns = math.ceil(math.sqrt(shape[0]))
    order = np.random.default_rng(seed).permutation(len(pairs))
    data = {
        "sheet": hashlib.sha256(json.dumps([seed, *ids]).encode()).hexdigest()[:12],
        "seed": seed,
        "fps": fps,
        "frames": shape[0],
        "columns": columns,
        "height": height,
        "width": width,
        "reasons": REASONS,
        "pairs": [_shown(pairs[i], seed, (height, width), columns) for i in order],
    }
    page = importlib.resources.files(__package__).joinpath("label_sheet.html")
    # "</script>" in a prompt must not end the data.
    text = json.dumps(data, ensure_ascii=False).replace("<", "\\u003c")
    return page.read_text(encoding="utf-8").replace("__DATA__", text)


def swapped(pair: str, seed: int) -> bool:
    """Returns whether the chosen clip of the pair with this id is on the right."""
    return bool(np.random.default_rng([zlib.crc32(pair.encode()), seed]).integers(2))


def _shown(pair: Preference, seed: int, size: tuple[int, int], columns: int) -> dict[str, Any]:
    sides = [_picture(clip, size, columns) for clip in (pair.chosen, pair.rejected)]
    flip = swapped(pair.id, seed)
    left, right = reversed(sides) if flip else sides
    return {"id": pair.id, "prompt": pair.prompt, "swapped": flip, "left": left, "right": right}


def _picture(clip: Clip, size: tuple[int, int], columns: int) -> str:
    """Returns all frames of `clip`, row after row in one picture, as a data URI."""
    from PIL import Image

    height, width = size
    rows = math.ceil(len(clip) / columns)
    sheet = Image.new("RGB", (columns * width, rows * height))
    for t, pixels in enumerate(clip):
        frame = Image.fromarray(pixels)
        if frame.size != (width, height):
            frame = frame.resize((width, height), Image.Resampling.LANCZOS)
        sheet.paste(frame, (t % columns * width, t // columns * height))
    file = io.BytesIO()
    sheet.save(file, "WEBP", quality=QUALITY)
    return "data:image/webp;base64," + base64.b64encode(file.getvalue()).decode()


def _fitting(height: int, width: int, most: int) -> tuple[int, int]:
    scale = min(1.0, most / max(height, width))
    return max(1, round(scale * height)), max(1, round(scale * width))
