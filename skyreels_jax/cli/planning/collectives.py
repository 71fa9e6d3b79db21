"""What a compiled program sends between devices, read from its text."""

import collections
import dataclasses
import math
import re
from collections.abc import Iterator, Mapping

import numpy as np

KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")
BYTES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s16": 2, "u16": 2, "f32": 4, "s32": 4}
BYTES |= {"u32": 4, "f64": 8, "s64": 8, "u64": 8, "f8e4m3fn": 1, "f8e5m2": 1}
COMPUTATION = re.compile(r"^(?:ENTRY )?%?([\w.\-]+) \(.*\{$")
CALLED = re.compile(r"(?:calls|to_apply|body|condition|called_computations)=\{?%?([\w.\-]+)")
CONDITION = re.compile(r" while\(.*condition=%?([\w.\-]+)")
LIMIT = re.compile(r"= s32\[\]\S* constant\((\d+)\)")
OPERATION = re.compile(r"= (.+?) ([a-z][\w\-]*)\(")
ARRAY = re.compile(r"(\w+)\[([\d,]*)\]")
# The ways to write groups of devices: one by one; numbers in an order; axes of a mesh.
LISTED = re.compile(r"(?:replica_groups|source_target_pairs)=\{(\{.*?\})\}")
ORDERED = re.compile(r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?")
NAMED = re.compile(r"replica_groups=mesh\[(.*?)\] \{(.*?)\}")
FUSED = re.compile(r" fusion\(.*calls=%?([\w.\-]+)")
SCATTERING = "all-reduce-scatter"  # what TPUs make of a reduce-scatter
CHANNEL = re.compile(r"channel_id=(\d+)")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Collective:
    """`count` exchanges of one kind a step, among `group` devices, which are neighbours along
    `axes` of the mesh; `size` bytes of each device's array, whole where it is gathered, before
    where it is scattered.
    """

    kind: str
    group: int
    axes: tuple[str, ...]
    size: int
    count: int

    def seconds(self, link: float) -> float:
        """Returns how long they take on a ring of their own with `link` bytes a second to both
        sides: the time in which the links carry what has to go over them.
        """
        n = self.group
        share = {
            "all-gather": (n - 1) / n / 2,
            "reduce-scatter": (n - 1) / n / 2,
            "all-reduce": (n - 1) / n,
            "all-to-all": n / 8,
            "collective-permute": 1.0,
        }[self.kind]
        return self.count * self.size * share / link


One = tuple[str, int, tuple[str, ...], int]  # the fields of a `Collective`, without its count


def collectives(text: str, mesh: Mapping[str, int]) -> list[Collective]:
    """Returns the exchanges of a program (`Compiled.as_text()`), alike ones together; in loops as
    often as those run.

    mesh: the sizes of its axes, over all devices of the program.
    """
    bodies = _computations(text)
    times = _times(bodies)
    fused = set(FUSED.findall(text))
    # One that is fused with what runs beside it is there again, under its number, in each of these.
    apart: dict[tuple[str, One], int] = {}
    for name, lines in bodies.items():
        for line in lines:
            if (one := _collective(line, mesh)) is None:
                continue
            if name.startswith(SCATTERING):
                one = ("reduce-scatter", *one[1:])
            number = CHANNEL.search(line)
            key = (number[1] if number is not None and name in fused else line, one)
            apart[key] = max(apart.get(key, 0), times[name])
    together: collections.Counter = collections.Counter()
    for (_, one), count in apart.items():
        together[one] += count
    return [
        Collective(kind=kind, group=group, axes=axes, size=size, count=count)
        for (kind, group, axes, size), count in sorted(together.items())
        if count
    ]


def _computations(text: str) -> dict[str, list[str]]:
    bodies: dict[str, list[str]] = {}
    current: list[str] = []
    for line in text.splitlines():
        if (begun := COMPUTATION.match(line)) is not None:
            name = "ENTRY" if line.startswith("ENTRY") else begun[1]
            current = bodies.setdefault(name, [])
        else:
            current.append(line.strip())
    return bodies


def _times(bodies: Mapping[str, list[str]]) -> Mapping[str, int]:
    """Returns how often each computation runs."""
    callers: dict[str, list[tuple[str, int]]] = collections.defaultdict(list)
    for name, lines in bodies.items():
        for line in lines:
            trips = 1
            if (loop := CONDITION.search(line)) is not None:  # counts from 0 up to a constant
                limits = [int(n) for n in LIMIT.findall("\n".join(bodies[loop[1]]))]
                trips = max(limits, default=1)
            for called in CALLED.findall(line):
                callers[called].append((name, trips))
    known: dict[str, int] = {"ENTRY": 1}

    def runs(name: str) -> int:
        if name not in known:
            known[name] = sum(runs(caller) * trips for caller, trips in callers[name])
        return known[name]

    return collections.defaultdict(int, {name: runs(name) for name in bodies})


def _collective(line: str, mesh: Mapping[str, int]) -> One | None:
    """Returns what a line says that starts an exchange among several devices."""
    if (operation := OPERATION.search(line)) is None:
        return None
    result, name = operation.groups()
    kind = name.removesuffix("-start")
    if kind not in KINDS:
        return None
    sizes = list(_sizes(result))
    arguments = list(_sizes(line[operation.end() :].partition(")")[0]))
    size = sum(sizes) if name == kind else max(sizes)
    groups = _groups(line, math.prod(mesh.values()))
    group = groups.shape[1]
    if kind == "reduce-scatter":
        size = sum(arguments) or sum(sizes) * group
    return None if group < 2 else (kind, group, _axes(groups, mesh), size)


def _groups(line: str, devices: int) -> np.ndarray:
    """Returns the numbers of the devices that exchange something, [groups, devices of one]."""
    if (found := LISTED.search(line)) is not None:
        return np.array([_numbers(group) for group in found[1].strip("{}").split("},{")])
    if (found := ORDERED.search(line)) is not None:
        shape, sizes = _numbers(found[1]), _numbers(found[2])
        numbers = np.arange(math.prod(sizes)).reshape(sizes)
        return numbers.transpose(_numbers(found[3]) if found[3] else None).reshape(shape)
    if (found := NAMED.search(line)) is not None:
        sizes = {name: int(size) for name, size in re.findall(r"'(\w+)'=(\d+)", found[1])}
        over = [list(sizes).index(name) for name in re.findall(r"'(\w+)'", found[2])]
        numbers = np.arange(math.prod(sizes.values())).reshape(list(sizes.values()))
        together = math.prod(numbers.shape[axis] for axis in over)
        return np.moveaxis(numbers, over, range(-len(over), 0)).reshape(-1, together)
    return np.arange(devices)[None]  # none are written where all exchange it


def _axes(groups: np.ndarray, mesh: Mapping[str, int]) -> tuple[str, ...]:
    """Returns along which axes of the mesh the devices of a group lie apart."""
    places = np.unravel_index(groups, tuple(mesh.values()))
    return tuple(name for name, at in zip(mesh, places, strict=True) if np.ptp(at, axis=1).any())


def _numbers(text: str) -> list[int]:
    return [int(number) for number in text.split(",")]


def _sizes(text: str) -> Iterator[int]:
    for kind, shape in ARRAY.findall(text):
        if kind in BYTES:
            yield BYTES[kind] * math.prod(int(n) for n in shape.split(",") if n)
