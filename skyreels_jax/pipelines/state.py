"""The state of a film between windows: one file, from which the film goes on as if never stopped.

A safetensors file: the arrays that the next window starts from, and json in its header. With
`carry="pixels"` these are the latents of `overlap_history` frames, a few megabytes at most; with
`carry="latents"` the decoder's cache as well, which is as large as the decoder's activations of
some frames: megabytes for the miniature, gigabytes for the released VAE at 540P. With
`carry="cache"` it is the decoder's cache and the keys and values of all frames in view, for these
hang on frames that are long out of it: latents of the window alone would give others. They are
2 * layers * frames in view * tokens of a frame * width numbers, twice that under guidance.
"""

import dataclasses
import json
import os
import pathlib
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from skyreels_jax.core.config import from_dict, to_dict
from skyreels_jax.core.errors import UserError
from skyreels_jax.core.files import replacing
from skyreels_jax.pipelines.lengths import FilmPlan
from skyreels_jax.pipelines.recipe import Recipe
from skyreels_jax.pipelines.story import Story
from skyreels_jax.weights.writer import write_file

FORMAT, KEY = 3, "skyreels_jax.film"


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class FilmState:
    """What a film goes on from.

    recipe: how it is made, the prompt apart; story: its prompts; film: its windows.
    index: of the next window. frames: how many are shown, those of a video it continues included.
    prefix: latents that the window starts from. suffix: those behind the last one. cache: the
    decoder's, then the keys and values of finished blocks, leaf by leaf, each in its own dtype.
    """

    recipe: Recipe
    story: Story
    film: FilmPlan
    index: int
    frames: int
    prefix: np.ndarray | None = None
    suffix: np.ndarray | None = None
    cache: tuple[np.ndarray, ...] = ()

    @property
    def complete(self) -> bool:
        """Whether no window is left."""
        return self.film.count is not None and self.index >= self.film.count

    def save(self, path: str | os.PathLike) -> pathlib.Path:
        """Writes the state to `path`, whole or not at all; returns the path."""
        path = pathlib.Path(path)
        said = {"format": FORMAT, **{name: to_dict(getattr(self, name)) for name in SAID}}
        arrays = {name: getattr(self, name) for name in ("prefix", "suffix")}
        arrays |= {f"cache/{number:04d}": leaf for number, leaf in enumerate(self.cache)}
        arrays = {name: np.ascontiguousarray(a) for name, a in arrays.items() if a is not None}
        text = json.dumps(said, ensure_ascii=False)
        with replacing(path) as temporary:
            write_file(temporary, arrays, metadata={KEY: text})
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
        return path


SAID = ("recipe", "story", "film", "index", "frames")  # in the header


def read_state(path: str | os.PathLike) -> FilmState:
    """Returns the state at `path`; `UserError` if there is none, or it is damaged."""
    path = pathlib.Path(path)
    if not path.is_file():
        raise UserError(f"cannot read the state {str(path)!r}: no such file")
    try:
        with safe_open(path, framework="numpy") as file:
            said = json.loads((file.metadata() or {})[KEY])
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError, KeyError, TypeError, ValueError, RecursionError):
        raise UserError(
            f"{str(path)!r} is not the state of a film; give the file that `stream` leaves"
        ) from None
    return _from_said(str(path), said, arrays)


def _from_said(name: str, said: Any, arrays: dict[str, np.ndarray]) -> FilmState:
    if not isinstance(said, dict):
        raise UserError(f"{name!r} is a damaged state (its header is no object)")
    if said.get("format") != FORMAT:
        raise UserError(f"{name!r} has format {said.get('format')}; this version reads {FORMAT}")
    try:
        return FilmState(
            recipe=from_dict(Recipe, said["recipe"]),
            story=from_dict(Story, said["story"]),
            film=from_dict(FilmPlan, said["film"]),
            index=int(said["index"]),
            frames=int(said["frames"]),
            prefix=arrays.get("prefix"),
            suffix=arrays.get("suffix"),
            cache=tuple(arrays[key] for key in sorted(arrays) if key.startswith("cache/")),
        )
    except (KeyError, TypeError, ValueError, OverflowError) as error:  # UserError is a ValueError
        raise UserError(f"{name!r} is a damaged state ({error})") from None
