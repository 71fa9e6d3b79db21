"""Films of texts on disk, one file a text, so that making them can be stopped and go on."""

import pathlib
from collections.abc import Callable, Iterator

import numpy as np

from skyreels_jax.core.files import replacing
from skyreels_jax.data.preferences.judged import Told


def kept(folder: pathlib.Path, make: Callable[[int], Iterator[Told]]) -> Iterator[Told]:
    """Yields all texts in order: those in `folder`, then those of `make(how many are there)`, each
    after it has been written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    there = sorted(folder.glob("[0-9]*.npz"))  # not those written aside
    for path in there:
        yield _read(path)
    for number, told in enumerate(make(len(there)), len(there)):
        _write(folder / f"{number:06}.npz", told)
        yield told


def _read(path: pathlib.Path) -> Told:
    with np.load(path) as saved:
        said = (str(saved["id"]), str(saved["prompt"]))
        return Told(*said, list(saved["films"]), saved["motion"].tolist())


def _write(path: pathlib.Path, told: Told) -> None:
    with replacing(path) as aside:
        np.savez_compressed(aside, **told._asdict())
