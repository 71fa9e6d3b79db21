"""Names for the contents of weight files, without reading all of them."""

import hashlib
import pathlib
from collections.abc import Iterable

from skyreels_jax.core.errors import UserError

SAMPLE_BYTES = 1 << 16


def weights_state(weights: Iterable[pathlib.Path]) -> bytes:
    """Returns a hash over name, size and both ends of every weight file, or those in a folder.

    Models that were trained whole differ at the ends, too. One that adapters were merged into may
    not (the ends of a large one are a header and a layer that has no adapter): what we write of it
    says its origin in the header.

    Raises `UserError` where there are none: their hash would be that of other absent ones.
    """
    digest = hashlib.sha256()
    for place in weights:
        files = sorted(place.glob("*.safetensors")) if place.is_dir() else [place]
        if not files or not files[0].exists():
            raise UserError(f"{place}: no weights{'; expected *.safetensors' * place.is_dir()}")
        for file in files:
            digest.update(f"{file.name} {file.stat().st_size}\n".encode())
            with file.open("rb") as stream:
                digest.update(stream.read(SAMPLE_BYTES))
                stream.seek(max(0, file.stat().st_size - SAMPLE_BYTES))
                digest.update(stream.read())
    return digest.digest()
