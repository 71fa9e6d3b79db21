"""A model's own films on disk: latents and scores, made batch by batch, safe after each.

A folder of latents.npy (float16 [N, T, H, W, C], normalised), scores.npy (float64 [N, S]) and
manifest.json with the fingerprint of everything the films depend on.
"""

import json
import pathlib
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from jaxtyping import Float
from tqdm import tqdm

from skyreels_jax.core.errors import UserError
from skyreels_jax.core.files import write_json

MANIFEST = "manifest.json"
Latents = Float[np.ndarray, "B T H W C"]
Make = Callable[[Sequence[int]], tuple[Latents, Mapping[str, Float[np.ndarray, " B"]]]]


class FilmStore:
    """`films` films, filled in order by `fill`; what an earlier run made is kept.

    scores: names of the columns, in order.  expected: names everything that the films depend on.
    Raises `UserError` when `folder` holds films with another fingerprint.
    """

    def __init__(
        self, folder: pathlib.Path, *, films: int, scores: Sequence[str], expected: str
    ) -> None:
        self.folder, self.films, self.scores = folder, films, tuple(scores)
        self._manifest = {"fingerprint": expected, "films": films, "scores": list(scores)}
        self.done = 0
        path = folder / MANIFEST
        if path.exists():
            found = json.loads(path.read_text())
            self.done = found.pop("done")
            if found != self._manifest:
                raise UserError(
                    f"the films in {folder} were made with another model, reward or setting: "
                    "delete the folder, or give another --out (or preferences.films)"
                )

    def fill(self, make: Make, *, batch: int, title: str) -> None:
        """Makes the films that are missing; an interrupted call loses no finished batch.

        make: film numbers -> their latents and scores. It is always asked for `batch` films; the
        last of all are asked for again where the number does not come out even.
        Raises `UserError` for scores that are not finite.
        """
        with tqdm(total=self.films, initial=self.done, unit="film", desc=title, leave=False) as bar:
            while self.done < self.films:
                rows = np.arange(self.done, min(self.done + batch, self.films))
                asked = np.pad(rows, (0, batch - len(rows)), mode="edge")
                latents, scores = make([int(row) for row in asked])
                self._write(rows, latents[: len(rows)], scores)
                bar.update(len(rows))

    def latents(self) -> Float[np.ndarray, "N T H W C"]:
        """Returns the latents of all films, mapped from disk."""
        return np.load(self.folder / "latents.npy", mmap_mode="r")

    def column(self, name: str) -> Float[np.ndarray, " N"]:
        """Returns one score of all films."""
        return np.load(self.folder / "scores.npy")[:, self.scores.index(name)]

    def _write(self, rows: np.ndarray, latents: Latents, scores: Mapping[str, np.ndarray]) -> None:
        values = np.stack([np.asarray(scores[name], np.float64) for name in self.scores], axis=1)
        values = values[: len(rows)]
        if not np.isfinite(values).all():
            name = self.scores[int(np.argmax(~np.isfinite(values).all(axis=0)))]
            raise UserError(f"the {name} of a film is not a finite number; legal: any other score")
        for name, part, dtype in (("latents", latents, np.float16), ("scores", values, np.float64)):
            whole = self._open(name, (self.films, *part.shape[1:]), dtype)
            whole[rows[0] : rows[-1] + 1] = part
            whole.flush()
        self.done += len(rows)
        write_json(self.folder / MANIFEST, self._manifest | {"done": self.done})

    def _open(self, name: str, shape: tuple[int, ...], dtype: type) -> np.memmap:
        path = self.folder / f"{name}.npy"
        if self.done:
            return np.load(path, mmap_mode="r+")
        path.parent.mkdir(parents=True, exist_ok=True)
        return np.lib.format.open_memmap(path, "w+", dtype, shape)
