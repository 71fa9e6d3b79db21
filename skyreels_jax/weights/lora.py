"""Low-rank adapters (LoRA, Hu et al. 2021) from files: W' = W + scale * alpha / rank * up @ down.

An adapter file names the layers that it changes as one of the forms of the model does, so the
model's name tables say where each change belongs; there is no second list of names. Read are the
spellings of peft and diffusers (`transformer.blocks.0.attn1.to_q.lora_A.weight`), of official and
ComfyUI files (`diffusion_model.blocks.0.self_attn.q.lora_down.weight`, `.alpha`) and of
musubi-tuner (`lora_unet_blocks_0_self_attn_q.lora_down.weight`); also whole changes, as distilled
adapters hold them: `.diff` of a weight, `.diff_b` of a bias, `.diff_m` of a modulation. Written
are peft's spelling and the names of diffusers.
"""

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from skyreels_jax.core.errors import UserError
from skyreels_jax.core.types import Params
from skyreels_jax.weights.convert import Slot, cast, listing, plan
from skyreels_jax.weights.merge import Adapter, Change
from skyreels_jax.weights.reader import TensorSource
from skyreels_jax.weights.table import Table
from skyreels_jax.weights.transforms import LINEAR

PREFIX = re.compile(r"(?:(?:base_model\.model|diffusion_model|transformer)\.)*")
FLAT_PREFIX = "lora_unet_"  # musubi-tuner, which writes "_" for "." in the names of layers
# What the end of a key says: its role, and the end of the stored name of what it changes.
ENDINGS = {
    "lora_A.weight": ("down", "weight"),
    "lora_A.default.weight": ("down", "weight"),
    "lora_down.weight": ("down", "weight"),
    "lora_B.weight": ("up", "weight"),
    "lora_B.default.weight": ("up", "weight"),
    "lora_up.weight": ("up", "weight"),
    "alpha": ("alpha", "weight"),
    "lora_B.bias": ("up_bias", "bias"),
    "lora_B.default.bias": ("up_bias", "bias"),
    "diff": ("diff", "weight"),
    "diff_b": ("diff_b", "bias"),
    "diff_m": ("diff_m", "modulation"),
}
WHOLE = ("diff", "diff_b", "diff_m", "up_bias")  # these have the shape of what they change
# alpha / rank from the name of a layer and its rank.
Scaling = Callable[[str, int], float]


def no_scaling(layer: str, rank: int) -> float:
    """Returns 1: what alpha / rank is, as in diffusers, where nothing says alpha."""
    del layer, rank
    return 1.0


class Layer(NamedTuple):
    """The keys of one layer, and what they change, by role. `name` is without prefix and ending."""

    name: str
    parts: dict[str, tuple[str, Slot]]


def match_lora(source: TensorSource, tables: Iterable[Table], abstract: Params) -> list[Layer]:
    """Returns the layers that `source` changes in a model with parameters like `abstract`.

    tables: the forms of the model, whose names the file may use. No tensor is read.
    Raises one `UserError` that names every unknown, repeated, unpaired and mis-shaped tensor and
    every pair whose ranks differ.
    """
    names = {name: slot for table in tables for name, slot in plan(table, abstract).items()}
    flat = {name.replace(".", "_"): name for name in names}
    layers: dict[tuple[str, tuple[int, ...]], Layer] = {}
    problems = []
    for key in source.keys():  # noqa: SIM118
        found = _locate(key, names, flat)
        if found is None:
            problems.append(f"unknown {key} {list(source.shape(key))}")
            continue
        name, role, slot = found
        place = slot.path.rpartition("/")[0], slot.index  # the same in both forms
        parts = layers.setdefault(place, Layer(name, {})).parts
        if role in parts:
            problems.append(f"repeated {key}: {parts[role][0]} is the same part")
        parts[role] = key, slot
    for layer in layers.values():
        problems += _faults(source, layer)
    if problems:
        raise UserError(f"{source.name} is no adapter of this model: {listing(problems)}")
    if not layers:
        raise UserError(f"{source.name} holds no adapter: it is empty")
    return list(layers.values())


def read_lora(
    source: TensorSource,
    tables: Iterable[Table],
    abstract: Params,
    *,
    scaling: Scaling = no_scaling,
) -> Adapter:
    """Returns the adapter in `source`.

    scaling: alpha / rank of the layers that have no key for alpha.
    Raises `UserError` as `match_lora` does.
    """
    changes: dict[str, list[Change]] = {}
    for layer in match_lora(source, tables, abstract):
        factor = np.float32(1)
        if "down" in layer.parts:
            factor = _scale(source, layer, scaling)
            path, change = _low_rank(source, layer, factor)
            changes.setdefault(path, []).append(change)
        for role in WHOLE:
            if role in layer.parts:
                key, slot = layer.parts[role]
                whole = slot.transform.forward(_read(source, key))
                whole = factor * whole if role == "up_bias" else whole
                changes.setdefault(slot.path, []).append(Change(slot.index, whole=whole))
    return Adapter(name=source.name, changes=changes)


def export_lora(
    adapter: Adapter, table: Table, abstract: Params, *, dtype: Any = None
) -> Iterator[tuple[str, np.ndarray]]:
    """Yields (name, array) of the tensors of a file from which `read_lora` makes `adapter` again.

    They say no alpha: it is in the factors, so that whoever takes it for the rank, as all readers
    do where nothing else is said, has the same adapter. `dtype`: of the tensors; None: float32.
    Raises `ValueError` for changes that are no factors of a linear layer of the model.
    """
    slots = {(slot.path, slot.index): (name, slot) for name, slot in plan(table, abstract).items()}
    for path, changes in adapter.changes.items():
        for change in changes:
            name, slot = slots.get((path, change.index), ("", None))
            if slot is None or slot.transform != LINEAR or change.down is None or change.up is None:
                raise ValueError(f"{path}{list(change.index)}: no factors of a linear layer")
            layer = f"transformer.{name.removesuffix('.weight')}"
            for role, factor in (("lora_A", change.down), ("lora_B", change.up)):
                array = np.asarray(factor.T, order="C")
                array = cast(layer, array, np.dtype(dtype or np.float32))
                yield f"{layer}.{role}.weight", array


def _locate(
    key: str, names: Mapping[str, Slot], flat: Mapping[str, str]
) -> tuple[str, str, Slot] | None:
    """Returns (layer, role, slot) of a key; None for one that no table knows."""
    for ending, (role, kind) in ENDINGS.items():
        layer = key.removesuffix(f".{ending}")
        if layer == key:
            continue
        if layer.startswith(FLAT_PREFIX):
            name = flat.get(f"{layer.removeprefix(FLAT_PREFIX)}_{kind}", "")
        else:
            name = f"{PREFIX.sub('', layer, count=1)}.{kind}"
        if name in names:
            return name.removesuffix(f".{kind}"), role, names[name]
    return None


def _faults(source: TensorSource, layer: Layer) -> list[str]:
    """Returns what is wrong with the shapes of one layer."""
    faults = []

    def check(role: str, right: bool, expected: str) -> None:
        if not right:
            key = layer.parts[role][0]
            faults.append(f"mis-shaped {key}: {list(source.shape(key))}, expected {expected}")

    shapes = {role: source.shape(key) for role, (key, _) in layer.parts.items()}
    for role in WHOLE:
        if role in shapes:
            expected = layer.parts[role][1].shape
            check(role, shapes[role] == expected, str(list(expected)))
    low = [role for role in ("down", "up", "alpha", "up_bias") if role in shapes]
    if low and low[:2] != ["down", "up"]:
        key = layer.parts[low[0]][0]
        faults.append(f"unpaired {key}: {layer.name} needs a down and an up factor")
    elif low:
        (down, up), (out, *fan_in) = (shapes["down"], shapes["up"]), layer.parts["down"][1].shape
        inner = "".join(f", {length}" for length in fan_in)
        check("down", min(down, default=0) > 0 and [*down[1:]] == fan_in, f"[rank{inner}]")
        # A kernel of a convolution has an `up` with axes of length one.
        check("up", len(up) > 1 and up[0] == out and set(up[2:]) <= {1}, f"[{out}, rank]")
        if down and len(up) > 1 and down[0] != up[1]:
            faults.append(f"mismatched ranks of {layer.name}: {down[0]} down, {up[1]} up")
    if "alpha" in shapes:
        check("alpha", math.prod(shapes["alpha"]) == 1, "one number")
    return faults


def _scale(source: TensorSource, layer: Layer, scaling: Scaling) -> np.float32:
    rank = source.shape(layer.parts["down"][0])[0]
    if "alpha" in layer.parts:
        return np.float32(_read(source, layer.parts["alpha"][0]).item() / rank)
    return np.float32(scaling(layer.name, rank))


def _low_rank(source: TensorSource, layer: Layer, factor: np.float32) -> tuple[str, Change]:
    key, slot = layer.parts["down"]
    down, up = _read(source, key), _read(source, layer.parts["up"][0])
    down, up = down.reshape(len(down), -1), factor * up.reshape(len(up), -1)
    if slot.transform == LINEAR:
        return slot.path, Change(slot.index, down=down.T, up=up.T)
    whole = slot.transform.forward((up @ down).reshape(slot.shape))
    return slot.path, Change(slot.index, whole=whole)


def _read(source: TensorSource, key: str) -> np.ndarray:
    return np.asarray(source.read(key)).astype(np.float32)
