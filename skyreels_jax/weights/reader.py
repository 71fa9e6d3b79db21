"""Stored tensors as a mapping from name to array, read one at a time."""

import json
import math
import pathlib
from typing import Any, Protocol, runtime_checkable

import ml_dtypes
import numpy as np
from safetensors import SafetensorError, safe_open

from skyreels_jax.core.errors import UserError
from skyreels_jax.weights.pth import TorchSource

DTYPES = {
    "F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16,
    "I64": np.int64, "I32": np.int32, "I16": np.int16, "I8": np.int8, "U8": np.uint8,
    "BOOL": np.bool_,
}  # fmt: skip
PTH = (".pth", ".pt", ".bin")


@runtime_checkable
class TensorSource(Protocol):
    """Named tensors; `read` returns a fresh array or a read-only view, never the whole file."""

    name: str

    def keys(self) -> list[str]: ...

    def shape(self, key: str) -> tuple[int, ...]: ...

    def dtype(self, key: str) -> np.dtype: ...

    def read(self, key: str) -> np.ndarray: ...


class SafetensorsSource:
    """A `TensorSource` over one or more safetensors files.

    A tensor's bytes are read from the file. Mapped into memory, as safetensors' own reader does it,
    what was read would go on counting as memory of this process.
    """

    def __init__(self, files: list[pathlib.Path], *, name: str):
        self.name = name
        self._where: dict[str, tuple[pathlib.Path, int, dict[str, Any]]] = {}
        self._metadata: dict[str, str] = {}
        for file in files:
            start, header = _read_header(file)
            self._metadata |= header.pop("__metadata__", None) or {}
            for key, entry in header.items():
                if key in self._where:
                    raise UserError(f"{name}: tensor {key!r} is in {file.name} and another file")
                self._where[key] = file, start + entry["data_offsets"][0], entry

    def keys(self) -> list[str]:
        return list(self._where)

    def shape(self, key: str) -> tuple[int, ...]:
        return tuple(self._where[key][2]["shape"])

    def dtype(self, key: str) -> np.dtype:
        text = self._where[key][2]["dtype"]
        if text not in DTYPES:
            raise UserError(f"{self.name}: {key} has type {text}; readable: {', '.join(DTYPES)}")
        return np.dtype(DTYPES[text])

    def read(self, key: str) -> np.ndarray:
        file, start, _ = self._where[key]
        shape, dtype = self.shape(key), self.dtype(key)  # refuses what numpy cannot hold
        count = math.prod(shape) * dtype.itemsize
        return np.fromfile(file, np.uint8, count, offset=start).view(dtype).reshape(shape)

    def metadata(self) -> dict[str, str]:
        """Returns the texts in the headers."""
        return self._metadata


def open_source(path: str | pathlib.Path) -> TensorSource:
    """Opens a `.safetensors` or `.pth`/`.pt`/`.bin` file, or a folder of safetensors.

    Raises `UserError` for a missing path, a folder without weights, missing shards, damaged files.
    """
    path = pathlib.Path(path)
    if path.is_file() and path.suffix in PTH:
        return TorchSource(path)
    if path.is_file():
        return SafetensorsSource([path], name=str(path))
    if not path.is_dir():
        raise UserError(f"{path}: no such weight file or folder")
    return SafetensorsSource(weight_files(path), name=str(path))


def stored_origin(path: pathlib.Path) -> str | None:
    """Returns what the header of a weight file, or of those in a folder, says as its origin (see
    `write_safetensors`), if anything. Raises what `open_source` does.
    """
    if path.suffix in PTH:  # has no such header
        return None
    files = weight_files(path) if path.is_dir() else [path]
    return SafetensorsSource(files, name=str(path)).metadata().get("origin")


def weight_files(folder: pathlib.Path) -> list[pathlib.Path]:
    """Returns the safetensors files that make up the model in `folder`.

    An index says which where there is one. Variants ("model.fp16.safetensors") are not read.
    Raises `UserError` when index and files do not agree: which of the two is old cannot be told.
    """
    indices = sorted(p for p in folder.glob("*.safetensors.index.json") if p.name.count(".") == 3)
    files = sorted(p for p in folder.glob("*.safetensors") if p.name.count(".") == 1)
    if not indices:
        if not files:
            raise UserError(f"{folder}: no weights; expected *.safetensors")
        return files
    if len(indices) > 1:
        names = ", ".join(p.name for p in indices)
        raise UserError(f"{folder}: several weight indices ({names}); keep one")
    try:
        names = sorted(set(json.loads(indices[0].read_text())["weight_map"].values()))
    except (ValueError, KeyError, AttributeError, TypeError):
        raise UserError(f"{indices[0]}: not a safetensors index (json with 'weight_map')") from None
    absent = [name for name in names if not (folder / name).is_file()]
    if absent:
        raise UserError(f"{folder}: missing weight files {', '.join(absent)}")
    if strange := [p.name for p in files if p.name not in names]:
        listed = ", ".join(strange)
        raise UserError(f"{indices[0]} does not name {listed}; delete the old one of the two")
    return [folder / name for name in names]


def _read_header(file: pathlib.Path) -> tuple[int, dict[str, Any]]:
    """Returns where the values begin, and what the header says; raises `UserError` for a file that
    is not whole.
    """
    try:
        with safe_open(file, framework="np"):
            pass  # all lengths and offsets fit
    except SafetensorError as error:
        raise UserError(f"{file}: not a complete safetensors file ({error})") from None
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        return 8 + length, json.loads(stream.read(length))
