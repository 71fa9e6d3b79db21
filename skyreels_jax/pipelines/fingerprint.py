"""Names for the contents of weight files, without reading all of them."""

import hashlib
import pathlib
from collections.abc import Iterable

SAMPLE_BYTES = 1 << 16


def weights_state(weights: Iterable[pathlib.Path]) -> bytes:
    """Returns a hash over name, size and both ends of every weight file."""
    digest = hashlib.sha256()
    for place in weights:
        for file in sorted(place.glob("*.safetensors")) if place.is_dir() else [place]:
            digest.update(f"{file.name} {file.stat().st_size}\n".encode())
            with file.open("rb") as stream:
                digest.update(stream.read(SAMPLE_BYTES))
                stream.seek(max(0, file.stat().st_size - SAMPLE_BYTES))
                digest.update(stream.read())
    return digest.digest()
