"""Stored tensors as a mapping from name to array: read one at a time, from memory-mapped files."""

import json
import pathlib
import zipfile
from collections.abc import Iterator, Mapping
from typing import Protocol, runtime_checkable

import ml_dtypes
import numpy as np
from safetensors import SafetensorError, safe_open

from skyreels_jax.core.errors import UserError

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


class DictSource:
    """A `TensorSource` over arrays in memory."""

    def __init__(self, arrays: Mapping[str, np.ndarray], *, name: str = "arrays"):
        self.name, self._arrays = name, arrays

    def keys(self) -> list[str]:
        return list(self._arrays)

    def shape(self, key: str) -> tuple[int, ...]:
        return tuple(self._arrays[key].shape)

    def dtype(self, key: str) -> np.dtype:
        return np.dtype(self._arrays[key].dtype)

    def read(self, key: str) -> np.ndarray:
        return np.asarray(self._arrays[key])


class SafetensorsSource:
    """A `TensorSource` over one or more safetensors files."""

    def __init__(self, files: list[pathlib.Path], *, name: str):
        self.name = name
        self._where: dict = {}
        for file in files:
            for key, handle in _open_safetensors(file):
                if key in self._where:
                    raise UserError(f"{name}: tensor {key!r} is in {file.name} and another file")
                self._where[key] = handle

    def keys(self) -> list[str]:
        return list(self._where)

    def shape(self, key: str) -> tuple[int, ...]:
        return tuple(self._where[key].get_slice(key).get_shape())

    def dtype(self, key: str) -> np.dtype:
        text = self._where[key].get_slice(key).get_dtype()
        if text not in DTYPES:
            raise UserError(f"{self.name}: {key} has type {text}; readable: {', '.join(DTYPES)}")
        return np.dtype(DTYPES[text])

    def read(self, key: str) -> np.ndarray:
        self.dtype(key)  # refuses what numpy cannot hold
        return self._where[key].get_tensor(key)


class TorchSource:
    """A `TensorSource` over a PyTorch checkpoint, unpickled with `weights_only=True`."""

    def __init__(self, path: pathlib.Path):
        self.name = str(path)
        try:
            import torch
        except ImportError:
            raise UserError(
                f"{path} is a PyTorch file: pip install 'skyreels_jax[torch]' (the extra 'torch')"
            ) from None
        try:
            # Only the zip format (torch >= 1.6) can be mapped; a truncated file is no zip either.
            state = torch.load(
                path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path)
            )
        except Exception as error:  # torch raises a dozen types for a damaged or unsafe file
            reason = str(error).strip().split("\n")[0] or type(error).__name__
            raise UserError(f"{path}: not a complete PyTorch weight file ({reason})") from None
        if not isinstance(state, Mapping) or not all(torch.is_tensor(t) for t in state.values()):
            raise UserError(f"{path}: expected one flat dictionary of tensors")
        self._state, self._bfloat16, self._int16 = state, torch.bfloat16, torch.int16

    def keys(self) -> list[str]:
        return list(self._state)

    def shape(self, key: str) -> tuple[int, ...]:
        return tuple(self._state[key].shape)

    def dtype(self, key: str) -> np.dtype:
        dtype = self._state[key].dtype
        if dtype == self._bfloat16:
            return np.dtype(ml_dtypes.bfloat16)
        return np.dtype(str(dtype).removeprefix("torch."))

    def read(self, key: str) -> np.ndarray:
        tensor = self._state[key].detach().contiguous()
        if tensor.dtype == self._bfloat16:  # numpy has no bfloat16 of its own
            return tensor.view(self._int16).numpy().view(ml_dtypes.bfloat16)
        return tensor.numpy()


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


def weight_files(folder: pathlib.Path) -> list[pathlib.Path]:
    """Returns the safetensors files that make up the model in `folder`.

    The index decides where there is one. Variants ("model.fp16.safetensors") are not read.
    """
    indices = sorted(p for p in folder.glob("*.safetensors.index.json") if p.name.count(".") == 3)
    if not indices:
        files = sorted(p for p in folder.glob("*.safetensors") if p.name.count(".") == 1)
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
    return [folder / name for name in names]


def _open_safetensors(file: pathlib.Path) -> Iterator[tuple[str, object]]:
    try:
        handle = safe_open(file, framework="np")
        return ((key, handle) for key in handle.keys())  # noqa: SIM118
    except SafetensorError as error:
        raise UserError(f"{file}: not a complete safetensors file ({error})") from None
