"""PyTorch checkpoints; the only module that needs `torch`, and only when called."""

import pathlib
import zipfile
from collections.abc import Mapping
from types import ModuleType
from typing import TYPE_CHECKING

import ml_dtypes
import numpy as np

from skyreels_jax.core.errors import UserError

if TYPE_CHECKING:
    from skyreels_jax.weights.export import Tensors


def require_torch(path: str | pathlib.Path) -> ModuleType:
    """Returns the module `torch`; raises `UserError` that names the extra where it is absent."""
    try:
        import torch
    except ImportError:
        raise UserError(
            f"{path} is a PyTorch file: pip install 'skyreels_jax[torch]' (the extra 'torch')"
        ) from None
    return torch


class TorchSource:
    """A `TensorSource` over a PyTorch checkpoint, unpickled with `weights_only=True`."""

    def __init__(self, path: pathlib.Path):
        self.name = str(path)
        self._torch = require_torch(path)
        try:
            # Only the zip format (torch >= 1.6) can be mapped; a truncated file is no zip either.
            state = self._torch.load(
                path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path)
            )
        except Exception as error:  # torch raises a dozen types for a damaged or unsafe file
            reason = str(error).strip().split("\n")[0] or type(error).__name__
            raise UserError(f"{path}: not a complete PyTorch weight file ({reason})") from None
        is_tensor = self._torch.is_tensor
        if not isinstance(state, Mapping) or not all(map(is_tensor, state.values())):
            raise UserError(f"{path}: expected one flat dictionary of tensors")
        self._state = state

    def keys(self) -> list[str]:
        return list(self._state)

    def shape(self, key: str) -> tuple[int, ...]:
        return tuple(self._state[key].shape)

    def dtype(self, key: str) -> np.dtype:
        dtype = self._state[key].dtype
        if dtype == self._torch.bfloat16:
            return np.dtype(ml_dtypes.bfloat16)
        return np.dtype(str(dtype).removeprefix("torch."))

    def read(self, key: str) -> np.ndarray:
        tensor = self._state[key].detach().contiguous()
        if tensor.dtype == self._torch.bfloat16:  # numpy has no bfloat16 of its own
            return tensor.view(self._torch.int16).numpy().view(ml_dtypes.bfloat16)
        return tensor.numpy()


def write_pth(path: str | pathlib.Path, tensors: "Tensors") -> None:
    """Writes a PyTorch checkpoint (a flat dictionary); this holds all tensors in memory at once."""
    torch = require_torch(path)
    state = {}
    for tensor in tensors:
        array = np.array(tensor.whole(), order="C")  # torch wants a writable array of its own
        if array.dtype == ml_dtypes.bfloat16:
            state[tensor.name] = torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
        else:
            state[tensor.name] = torch.from_numpy(array)
    try:
        torch.save(state, path)
    except RuntimeError as error:  # such as a full disk
        raise OSError(str(error).split("\n")[0]) from None
