"""Safetensors files, in shards with an index where one file would be too large.

The format is a length (8 bytes, little-endian), a header of that many bytes of json that says of
each tensor its type, its shape and where its bytes lie, and the bytes. Everything in the header is
known before any value is, so that a file is written from front to back, a piece at a time, where
safetensors' own writer wants all tensors at once.
"""

import json
import pathlib
from collections.abc import Mapping
from typing import BinaryIO

import numpy as np

from skyreels_jax.weights.export import LazyTensor, Tensors, lazy
from skyreels_jax.weights.reader import DTYPES

NAMES = {np.dtype(dtype): name for name, dtype in DTYPES.items()}
Shard = list[LazyTensor]


def write_file(
    path: pathlib.Path, arrays: Mapping[str, np.ndarray], *, metadata: Mapping[str, str]
) -> None:
    """Writes one safetensors file. Raises `OSError` where it cannot be written."""
    _write([lazy(name, array) for name, array in arrays.items()], path, metadata)


def write_safetensors(
    folder: str | pathlib.Path,
    tensors: Tensors,
    *,
    max_shard_bytes: int,
    basename: str,
    origin: str | None = None,
) -> list[pathlib.Path]:
    """Writes `tensors` to `folder`/`basename`.safetensors, or to numbered shards with an index.

    One tensor at a time is in memory. A tensor larger than `max_shard_bytes` gets a shard of its
    own. Nothing is left behind when one cannot be read. Returns the weight files.
    origin: what they come from, for their headers: it tells files that differ in their middle from
    each other (`pipelines.fingerprint`).
    """
    metadata = {"format": "pt"} | ({} if origin is None else {"origin": origin})
    folder = pathlib.Path(folder)
    shards = _divided(tensors, max_shard_bytes)
    paths = [folder / f"{basename}-{i:05d}.partial" for i in range(1, len(shards) + 1)]
    try:
        for path, shard in zip(paths, shards, strict=True):
            _write(shard, path, metadata)  # transformers asks for the format
        return _publish(folder, dict(zip(paths, shards, strict=True)), basename)
    finally:
        for path in paths:
            path.unlink(missing_ok=True)


def _divided(tensors: Tensors, max_shard_bytes: int) -> list[Shard]:
    shards: list[Shard] = [[]]
    held, seen = 0, set()
    for tensor in tensors:
        if tensor.name in seen:
            raise ValueError(f"tensor {tensor.name!r} is written twice")
        seen.add(tensor.name)
        if shards[-1] and held + tensor.nbytes > max_shard_bytes:
            shards.append([])
            held = 0
        shards[-1].append(tensor)
        held += tensor.nbytes
    return shards


def _write(shard: Shard, path: pathlib.Path, metadata: Mapping[str, str]) -> None:
    # The widest types first: all are aligned then, in memory too.
    shard = sorted(shard, key=lambda tensor: -tensor.dtype.itemsize)
    header: dict[str, object] = {"__metadata__": dict(metadata)}
    end = 0
    for tensor in shard:
        start, end = end, end + tensor.nbytes
        kind = {"dtype": NAMES[tensor.dtype], "shape": list(tensor.shape)}
        header[tensor.name] = {**kind, "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for tensor in shard:
            _write_values(file, tensor)


def _write_values(file: BinaryIO, tensor: LazyTensor) -> None:
    # A function of its own: a piece that outlives its tensor would keep all of its values.
    for piece in tensor.pieces():
        file.write(piece.reshape(-1).view(np.uint8).data)


def _publish(folder, shards: Mapping[pathlib.Path, Shard], basename) -> list[pathlib.Path]:
    files, weight_map = [], {}
    for number, (path, shard) in enumerate(shards.items(), start=1):
        tail = "" if len(shards) == 1 else f"-{number:05d}-of-{len(shards):05d}"
        files.append(path.rename(folder / f"{basename}{tail}.safetensors"))
        weight_map.update(dict.fromkeys((tensor.name for tensor in shard), files[-1].name))
    if len(shards) > 1:
        total = sum(tensor.nbytes for shard in shards.values() for tensor in shard)
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        text = json.dumps(index, indent=2, sort_keys=True) + "\n"
        (folder / f"{basename}.safetensors.index.json").write_text(text)
    return files
