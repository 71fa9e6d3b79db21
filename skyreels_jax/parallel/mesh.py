"""The mesh: four ways to divide the work among devices."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Literal

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh

from skyreels_jax.core.errors import UserError

AXES = ("data", "fsdp", "tensor", "context")
BATCH = ("data", "fsdp")  # the axes that clips are divided over


@dataclasses.dataclass(frozen=True, kw_only=True)
class MeshConfig:
    """How many devices each axis has; -1, for one of them, is all that the others leave.

    data: clips; every device of it holds all weights.
    fsdp: clips as well; weights and optimizer state are divided, and gathered layer by layer.
    tensor: heads and hidden units of every layer.
    context: the tokens of every frame.
    attention: how devices that share the tokens of a clip attend (`parallel.context`).
    """

    data: int = 1
    fsdp: int = 1
    tensor: int = 1
    context: int = 1
    attention: Literal["ulysses", "ring"] = "ulysses"

    def __post_init__(self):
        sizes = [getattr(self, name) for name in AXES]
        if any(size < 1 and size != -1 for size in sizes) or sizes.count(-1) > 1:
            raise UserError(f"a mesh has sizes of 1 or more, or one of -1 (the rest): {self}")

    def __str__(self) -> str:
        return ", ".join(f"{name} {getattr(self, name)}" for name in AXES)

    def sized(self, devices: int) -> "MeshConfig":
        """Returns the mesh of `devices` devices, without -1; `UserError` where it has others."""
        sizes = {name: getattr(self, name) for name in AXES}
        known = math.prod(size for size in sizes.values() if size != -1)
        open_axis = next((name for name, size in sizes.items() if size == -1), None)
        if open_axis is not None and devices % known == 0:
            sizes[open_axis] = devices // known
        elif open_axis is not None or known != devices:
            raise UserError(
                f"a mesh of {self} does not fit {devices} devices; legal: sizes whose product is "
                f"{devices}, or one that is -1 beside a divisor of it"
            )
        return dataclasses.replace(self, **sizes)


def make_mesh(config: MeshConfig, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Returns the mesh of `config` over `devices` (None: all there are, of all processes).

    Neighbours on the last axes are neighbours in the machine, as far as jax knows; what several
    slices of TPUs share, over a slower network, is clips.
    Raises `UserError` where they are not as many as the config says, or wired otherwise.
    """
    devices = jax.devices() if devices is None else devices
    sized = config.sized(len(devices))
    try:
        order = _ordered(tuple(getattr(sized, name) for name in AXES), devices)
    except (NotImplementedError, ValueError, AssertionError) as error:
        raise UserError(f"a mesh of {sized} does not fit these devices: {error}") from error
    return Mesh(order, AXES, axis_types=(AxisType.Auto,) * len(AXES))


def _ordered(shape: tuple[int, ...], devices: Sequence[jax.Device]) -> np.ndarray:
    """Returns `devices` as an array of this shape; whole rings of the torus where they fit."""
    if len(devices) == 1:
        return np.array(devices).reshape(shape)
    split = {"allow_split_physical_axes": True}
    tpu = devices[0].platform == "tpu"
    slices = len({getattr(device, "slice_index", 0) for device in devices}) if tpu else 1
    if slices == 1:
        return mesh_utils.create_device_mesh(shape, devices, **split)
    able = [AXES.index(name) for name in BATCH if shape[AXES.index(name)] % slices == 0]
    if not able:
        raise ValueError(f"of {slices} slices; legal: data or fsdp a multiple of that")
    outer = [slices if axis == able[0] else 1 for axis in range(len(AXES))]
    inner = [size // parts for size, parts in zip(shape, outer, strict=True)]
    return mesh_utils.create_hybrid_device_mesh(inner, outer, devices, **split)
