"""Changes of layout between a stored tensor and a parameter, each exactly invertible."""

import dataclasses
import functools
import math
import re

import numpy as np

Groups = tuple[tuple[str, ...], ...]


@dataclasses.dataclass(frozen=True)
class Transform:
    """A permutation, split, merge or squeeze of axes, written "source axes -> target axes".

    One letter or word per axis, `(a b)` for merged axes, `1` for an axis of length one; `sizes`
    gives the lengths that a merged axis hides: `Transform("o i t h w -> (t h w i) o",
    (("t", 1), ("h", 2), ("w", 2)))`. The empty pattern keeps the array. No value is ever changed.
    """

    pattern: str = ""
    sizes: tuple[tuple[str, int], ...] = ()

    def __post_init__(self):
        if self.pattern:
            source, target = self.sides
            names = [sorted(name for group in side for name in group) for side in (source, target)]
            if names[0] != names[1] or len(set(names[0])) != len(names[0]):
                raise ValueError(f"{self.pattern!r}: both sides must name the same axes, once")

    @functools.cached_property
    def sides(self) -> tuple[Groups, Groups]:
        """The source and the target axes; an axis of length one is an empty group."""
        source, target = self.pattern.split("->")
        return _parse(source), _parse(target)

    def forward(self, array: np.ndarray) -> np.ndarray:
        """Returns the parameter made of a stored array (a view where possible)."""
        return self._move(array, 0, 1) if self.pattern else array

    def inverse(self, array: np.ndarray) -> np.ndarray:
        """Returns the stored array made of a parameter (a view where possible)."""
        return self._move(array, 1, 0) if self.pattern else array

    def source_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Returns the shape of the stored tensor of a parameter of `shape`."""
        if not self.pattern:
            return tuple(shape)
        lengths = self._lengths(self.sides[1], shape)
        return tuple(math.prod(lengths[name] for name in group) for group in self.sides[0])

    def _move(self, array: np.ndarray, start: int, end: int) -> np.ndarray:
        lengths = self._lengths(self.sides[start], array.shape)
        names = [name for group in self.sides[start] for name in group]
        order = [names.index(name) for group in self.sides[end] for name in group]
        array = array.reshape([lengths[name] for name in names]).transpose(order)
        return array.reshape(
            [math.prod(lengths[name] for name in group) for group in self.sides[end]]
        )

    def _lengths(self, side: Groups, shape: tuple[int, ...]) -> dict[str, int]:
        if len(side) != len(shape):
            raise ValueError(f"{self.pattern!r} does not fit shape {tuple(shape)}")
        lengths = dict(self.sizes)
        for group, length in zip(side, shape, strict=True):
            unknown = [name for name in group if name not in lengths]
            known = math.prod(lengths[name] for name in group if name in lengths)
            if len(unknown) > 1:
                raise ValueError(f"{self.pattern!r} needs sizes for {' '.join(unknown)}")
            if unknown and length % known == 0:
                lengths[unknown[0]] = length // known
            elif unknown or known != length:
                raise ValueError(f"{self.pattern!r} does not fit shape {tuple(shape)}")
        return lengths


def _parse(side: str) -> Groups:
    words = re.findall(r"\([^()]*\)|[^\s()]+", side)
    return tuple(() if w == "1" else tuple(w.strip("()").split()) for w in words)


def squeeze(rank: int) -> Transform:
    """Returns the transform of a per-channel vector stored as [C, 1, ..., 1] of `rank` axes."""
    return Transform("c" + " 1" * (rank - 1) + " -> c")


SAME = Transform()
LINEAR = Transform("o i -> i o")
CONV2D = Transform("o i h w -> h w i o")
CONV3D = Transform("o i t h w -> t h w i o")
