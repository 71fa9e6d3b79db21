"""What a compiled program sends between devices, read from its text."""

import collections
import dataclasses
import math
import re
from collections.abc import Iterator, Mapping

KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")
BYTES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s16": 2, "u16": 2, "f32": 4, "s32": 4}
BYTES |= {"u32": 4, "f64": 8, "s64": 8, "u64": 8, "f8e4m3fn": 1, "f8e5m2": 1}
COMPUTATION = re.compile(r"^(?:ENTRY )?%?([\w.\-]+) \(.*\{$")
CALLED = re.compile(r"(?:calls|to_apply|body|condition|called_computations)=\{?%?([\w.\-]+)")
CONDITION = re.compile(r" while\(.*condition=%?([\w.\-]+)")
LIMIT = re.compile(r"= s32\[\]\S* constant\((\d+)\)")
OPERATION = re.compile(r"= (.+?) ([a-z][\w\-]*)\(")
ARRAY = re.compile(r"(\w+)\[([\d,]*)\]")
GROUPS = re.compile(r"replica_groups=(?:\[\d+,(\d+)\]|\{\{([\d,]+)\}|mesh\[(.*?)\] \{(.*?)\})")
FUSED = re.compile(r" fusion\(.*calls=%?([\w.\-]+)")
SCATTERING = "all-reduce-scatter"  # what TPUs make of a reduce-scatter
CHANNEL = re.compile(r"channel_id=(\d+)")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Collective:
    """`count` exchanges of one kind a step, among `group` devices; `size` bytes of each device's
    array, whole where it is gathered, before where it is scattered.
    """

    kind: str
    group: int
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


def collectives(text: str) -> list[Collective]:
    """Returns the exchanges of a program (`Compiled.as_text()`), alike ones together; in loops as
    often as those run.
    """
    bodies = _computations(text)
    times = _times(bodies)
    fused = set(FUSED.findall(text))
    # One that is fused with what runs beside it is there again, under its number, in each of these.
    apart: dict[tuple[str, tuple[str, int, int]], int] = {}
    for name, lines in bodies.items():
        for line in lines:
            if (one := _collective(line)) is None:
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
        Collective(kind=kind, group=group, size=size, count=count)
        for (kind, group, size), count in sorted(together.items())
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


def _collective(line: str) -> tuple[str, int, int] | None:
    """Returns (kind, group, bytes) of a line that starts an exchange among several devices."""
    if (operation := OPERATION.search(line)) is None:
        return None
    result, name = operation.groups()
    kind = name.removesuffix("-start")
    if kind not in KINDS:
        return None
    sizes = list(_sizes(result))
    arguments = list(_sizes(line[operation.end() :].partition(")")[0]))
    size = sum(sizes) if name == kind else max(sizes)
    if kind == "reduce-scatter":
        group = _group(line)
        size = sum(arguments) or sum(sizes) * group
    else:
        group = 2 if kind == "collective-permute" else _group(line)
    return None if group < 2 else (kind, group, size)


def _group(line: str) -> int:
    if (found := GROUPS.search(line)) is None:
        return 1
    if found[3] is None:
        return int(found[1]) if found[1] else len(found[2].split(","))
    sizes = dict(re.findall(r"'(\w+)'=(\d+)", found[3]))
    return math.prod(int(sizes[name]) for name in re.findall(r"'(\w+)'", found[4]))


def _sizes(text: str) -> Iterator[int]:
    for kind, shape in ARRAY.findall(text):
        if kind in BYTES:
            yield BYTES[kind] * math.prod(int(n) for n in shape.split(",") if n)
