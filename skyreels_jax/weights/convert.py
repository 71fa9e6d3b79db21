"""The conversion engine: which stored tensor is which parameter, by a table and abstract shapes."""

import concurrent.futures
import dataclasses
import functools
import itertools
import math
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Sharding

from skyreels_jax.core.errors import UserError
from skyreels_jax.core.tree import named_leaves
from skyreels_jax.core.types import Params
from skyreels_jax.weights.reader import TensorSource
from skyreels_jax.weights.table import Rule, Table, matcher
from skyreels_jax.weights.transforms import Transform

WORKERS = 4  # threads that read and cast
ALIGNMENT = 64  # bytes
BLOCK = 16  # of the last axis, when axes are permuted: a line of the cache in float32
Bounds = tuple[tuple[int, int], ...]  # of a part of a leaf, axis by axis
LISTED = 40  # above this many problems the report folds the numbers in the names


@dataclasses.dataclass(frozen=True)
class Slot:
    """Where a stored tensor belongs: `path` of the leaf, `index` on its leading axes."""

    path: str
    index: tuple[int, ...]
    shape: tuple[int, ...]
    transform: Transform
    tied: str | None


def plan(table: Table, abstract: Params) -> dict[str, Slot]:
    """Returns the slot of every stored tensor of a model with parameters like `abstract`.

    Raises `ValueError` (a fault of the table) unless every leaf has exactly one rule and every
    name one slot.
    """
    rules = [(rule, matcher(rule.target)) for rule in table if rule.target is not None]
    slots: dict[str, Slot] = {}
    faults = []
    for path, leaf in named_leaves(abstract):
        found = [(rule, match) for rule, regex in rules if (match := regex.fullmatch(path))]
        if len(found) != 1:
            faults.append(f"{path} has {len(found)} rules")
            continue
        for name, slot in _slots(path, leaf.shape, found[0][0], found[0][1].groupdict()):
            if name in slots:
                faults.append(f"{name} feeds both {slots[name].path} and {path}")
            slots[name] = slot
    if faults:
        raise ValueError("the name table does not fit the model: " + "; ".join(faults))
    return slots


def _slots(path: str, shape, rule: Rule, numbers: dict[str, str]) -> Iterator[tuple[str, Slot]]:
    depth = len(rule.stacked)
    stored = rule.transform.source_shape(tuple(shape[depth:]))
    for index in itertools.product(*map(range, shape[:depth])):
        values = {**numbers, **dict(zip(rule.stacked, index, strict=True))}
        values |= {name: words[values[name]] for name, words in rule.words}
        tied = rule.tied.format(**values) if rule.tied else None
        yield rule.source.format(**values), Slot(path, index, stored, rule.transform, tied)


def match(table: Table, source: TensorSource, abstract: Params) -> dict[str, Slot]:
    """Returns the slots of `abstract` by the names under which `source` holds them.

    Raises one `UserError` that names every missing, unknown and mis-shaped tensor.
    """
    slots = plan(table, abstract)
    known = [matcher(rule.source) for rule in table if rule.target is None]
    left = dict.fromkeys(source.keys())  # noqa: SIM118
    found, problems = {}, []
    for name, slot in slots.items():
        held = [n for n in (name, slot.tied) if n in left]
        for n in held:
            del left[n]
        if not held:
            problems.append(f"missing {name} {list(slot.shape)}")
        elif source.shape(held[0]) != slot.shape:
            problems.append(
                f"mis-shaped {held[0]}: {list(source.shape(held[0]))}, expected {list(slot.shape)}"
            )
        elif len(held) == 2 and not np.array_equal(source.read(held[0]), source.read(held[1])):
            problems.append(f"contradicting {held[0]} and {held[1]}: the two must be equal")
        else:
            found[held[0]] = slot
    for name in left:
        if not any(regex.fullmatch(name) for regex in known):
            problems.append(f"unknown {name} {list(source.shape(name))}")
    if problems:
        head = f"{source.name} does not hold this model ({len(slots)} tensors)"
        raise UserError(f"{head}: {listing(problems)}")
    return found


def listing(problems: list[str]) -> str:
    """Returns how many problems there are of each kind (their first word), and all of them."""
    counts: dict[str, int] = {}
    for problem in problems:
        kind = problem.split()[0]
        counts[kind] = counts.get(kind, 0) + 1
    head = ", ".join(f"{count} {kind}" for kind, count in counts.items())
    lines = problems
    if len(problems) > LISTED:
        folded: dict[str, list[str]] = {}
        for problem in problems:
            folded.setdefault(re.sub(r"(?<=\.)\d+(?=\.)", "*", problem), []).append(problem)
        lines = [v[0] if len(v) == 1 else f"{k} (x{len(v)})" for k, v in folded.items()]
    return f"{head}\n  " + "\n  ".join(lines)


def load_tree(
    table: Table,
    source: TensorSource,
    abstract: Params,
    *,
    dtype: Any = None,
    kept: Callable[[str], bool] = lambda path: False,
    shardings: Mapping[str, Sharding] | None = None,
) -> Params:
    """Returns a tree like `abstract` filled from `source`, one leaf at a time.

    `dtype` is the type of floating leaves; None keeps that of the file. With one, those whose paths
    are `kept` are float32. shardings: of every leaf, by its path; None: all on the default device.
    Of a leaf this process reads and holds what its devices do, and that but once; one leaf at most
    exists twice, on CPU none: arrays are there as jax would have them, and are taken as they are.
    Beside that there are no more than `WORKERS` tensors in memory, as stored and as cast.
    Raises one `UserError` that lists everything missing, unknown or mis-shaped, before anything is
    read.
    """
    names: dict[str, list[tuple[str, Slot]]] = {}
    for name, slot in match(table, source, abstract).items():
        names.setdefault(slot.path, []).append((name, slot))
    leaves = []
    with concurrent.futures.ThreadPoolExecutor(WORKERS) as workers:
        for path, leaf in named_leaves(abstract):
            own = np.float32 if dtype is not None and kept(path) else dtype
            kinds = {target_dtype(source.dtype(name), own) for name, _ in names[path]}
            kind = kinds.pop() if len(kinds) == 1 else np.dtype(np.float32)
            sharding = None if shardings is None else shardings[path]
            parts = empty_parts(leaf.shape, kind, sharding)
            for _ in workers.map(functools.partial(fill, source, parts), names[path]):
                pass
            leaves.append(placed(leaf.shape, parts, sharding))
    return jax.tree.unflatten(jax.tree.structure(abstract), leaves)


def empty_parts(
    shape: tuple[int, ...], dtype: np.dtype, sharding: Sharding | None
) -> dict[Bounds, np.ndarray]:
    """Returns arrays of nothing yet for those parts of a leaf that devices of this process hold;
    None: for all of it."""
    wanted = [(slice(None),) * len(shape)]
    if sharding is not None:
        wanted = sharding.addressable_devices_indices_map(shape).values()
    held = {bounds(index, shape) for index in wanted}
    return {part: aligned(tuple(end - start for start, end in part), dtype) for part in held}


def fill(source: TensorSource, parts: Mapping[Bounds, np.ndarray], held: tuple[str, Slot]) -> None:
    """Writes a stored tensor into the parts of its leaf that have some of it; reads it for those
    alone."""
    name, slot = held
    targets = []
    for part, array in parts.items():
        above, within = part[: len(slot.index)], part[len(slot.index) :]
        at = [index - start for index, (start, _) in zip(slot.index, above, strict=True)]
        if all(0 <= here < end - start for here, (start, end) in zip(at, above, strict=True)):
            targets.append((array[(*at, ...)], tuple(slice(*span) for span in within)))
    if not targets:
        return
    whole = slot.transform.forward(cast(name, source.read(name), targets[0][0].dtype))
    for target, within in targets:
        copy(target, whole[within])


def placed(
    shape: tuple[int, ...], parts: Mapping[Bounds, np.ndarray], sharding: Sharding | None
) -> jax.Array:
    """Returns the leaf that `parts` are of, on the devices of `sharding`."""
    if sharding is None:
        (array,) = parts.values()
        return jax.device_put(array)
    return jax.make_array_from_callback(shape, sharding, lambda at: parts[bounds(at, shape)])


def bounds(index: tuple[slice, ...] | None, shape: tuple[int, ...]) -> Bounds:
    """Returns where each axis of a part begins and ends."""
    assert index is not None  # jax: of a device of another process
    return tuple(one.indices(size)[:2] for one, size in zip(index, shape, strict=True))


def aligned(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """Returns an array of nothing yet that begins where jax on CPU needs no copy of it."""
    count = math.prod(shape) * dtype.itemsize
    memory = np.empty(count + ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % ALIGNMENT
    return memory[start : start + count].view(dtype).reshape(shape)


def copy(target: np.ndarray, source: np.ndarray) -> None:
    """Fills `target` with `source`, of the same shape; part by part where axes are permuted, which
    takes a third of the time: what is read is then still near when its neighbours are."""
    if target.ndim < 2 or source.flags.c_contiguous:
        target[...] = source
        return
    for start in range(0, target.shape[-1], BLOCK):
        part = (..., slice(start, start + BLOCK))
        target[part] = source[part]


def target_dtype(old: Any, new: Any) -> np.dtype:
    """Returns `new` for a floating type `old`; `old` for other types and where `new` is None."""
    return np.dtype(new if new is not None and jnp.issubdtype(old, jnp.floating) else old)


def cast(name: str, array: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Returns `array` as `dtype`; raises `UserError` where a finite value would become infinite."""
    if array.dtype == dtype:
        return array
    with np.errstate(over="ignore"):
        new = array.astype(dtype)
    if dtype == np.float16 and not np.array_equal(np.isfinite(new), np.isfinite(array)):
        raise UserError(f"{name} holds values beyond float16 (65504); use bfloat16 or float32")
    return new
