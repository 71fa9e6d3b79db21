"""Films that grow: an .mp4 to which a window at a time is appended, playable after each.

Fragmented MP4 (ISO/IEC 14496-12): a header without samples, then fragments - `moof` and `mdat` -
each of which starts with a key frame and depends on no other. A window is encoded by itself, and
what is appended hangs on nothing but its frames and their place in the film. So a film that was
interrupted and goes on is the same file, byte for byte, as one that was not; and what a crash
leaves behind the last whole window is cut off by its frame count.
"""

import contextlib
import io
import os
import pathlib
import struct
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

import numpy as np

from skyreels_jax.core.errors import UserError
from skyreels_jax.pipelines.film import encode_h264

MOVFLAGS = "frag_keyframe+empty_moov+default_base_moof"
HEADER, FRAGMENT = (b"ftyp", b"moov"), (b"moof", b"mdat")
PARENTS = (b"moof", b"traf")


class Changed(UserError):
    """Another program has made or changed a film that was to grow."""


class Box(NamedTuple):
    """A box of a file: its type, where it and its content start, and where it ends."""

    kind: bytes
    start: int
    body: int
    end: int


def append(
    path: pathlib.Path,
    frames: np.ndarray,
    fps: float | int,
    *,
    at: int,
    size: int | None = None,
) -> int:
    """Makes `frames` uint8 [F, H, W, 3] the frames from number `at` on of the film at `path`.

    The file must hold `at` frames (see `cut`); at 0 there must be none, and it is made. It is on
    the disk when this returns how many bytes it has, which is `size` next time.
    Raises `UserError` if it cannot be written, or holds films of another make; `Changed` if it is
    there at 0, is not there later, or has another size.
    """
    data, ticks = encoded(frames, fps)
    header, new = (_parts(data, kinds) for kinds in (HEADER, FRAGMENT))
    try:
        if at == 0:
            path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("r+b" if at else "xb") as file:
            if at:
                _check_header(path, file, header)
            if file.seek(0, os.SEEK_END) != size and size is not None:
                raise _changed(path)
            file.write(_moved(new, at, ticks) if at else header + new)
            file.flush()
            os.fsync(file.fileno())
            return file.tell()
    except OSError as error:
        if isinstance(error, FileExistsError | FileNotFoundError) and path.exists() != bool(at):
            raise _changed(path) from None
        raise UserError(f"cannot write {str(path)!r}: {error.strerror or error}") from None


def header_of(height: int, width: int, fps: float | int) -> bytes:
    """Returns what films of this size and rate start with, as they are encoded here."""
    return _parts(encoded(np.zeros((1, height, width, 3), np.uint8), fps)[0], HEADER)


def check(path: pathlib.Path, frames: int, *, header: bytes) -> int:
    """Returns how many bytes the film at `path` has, those behind its first `frames` included.

    Raises `UserError` if there is no such film, no window of it ends there, it cannot be cut, or it
    does not start with `header`.
    """
    with _opened(path) as file:
        _end_of(path, file, frames)
        file.seek(0)
        _check_header(path, file, header)
        return file.seek(0, os.SEEK_END)


def cut(path: pathlib.Path, frames: int, *, size: int | None = None) -> int:
    """Cuts the film at `path` back to its first `frames`, the end of a window; returns its bytes.

    Raises `UserError`, and cuts nothing, if there is no such film, or no window of it ends there;
    `Changed` if it has not `size` bytes any more.
    """
    with _opened(path) as file:
        if file.seek(0, os.SEEK_END) != size and size is not None:
            raise _changed(path)
        return file.truncate(_end_of(path, file, frames))


@contextlib.contextmanager
def _opened(path: pathlib.Path) -> Iterator[BinaryIO]:
    """Gives a film to read and to cut; raises `UserError` for what is wrong with it."""
    try:
        with path.open("r+b") as file:
            yield file
    except OSError as error:
        raise UserError(f"cannot cut {str(path)!r}: {error.strerror or error}") from None
    except (struct.error, RecursionError):
        raise UserError(f"{str(path)!r} is a damaged film; give the film of this state") from None


def _check_header(path: pathlib.Path, file: BinaryIO, header: bytes) -> None:
    if file.read(len(header)) != header:
        raise UserError(f"{str(path)!r} is a film of another size, rate or encoder")


def _changed(path: pathlib.Path) -> Changed:
    return Changed(
        f"another program has made or changed {str(path)!r} meanwhile; stop that one, or give "
        "another --out"
    )


def _end_of(path: pathlib.Path, file: BinaryIO, frames: int) -> int:
    """Returns where the first `frames` of a film end."""
    size, place, found, coming = file.seek(0, os.SEEK_END), 0, 0, 0
    while place + 8 <= size:
        file.seek(place)
        length, kind = struct.unpack(">I4s", file.read(8))
        if length < 8 or place + length > size or (kind == b"moof" and found >= frames):
            break  # the half of a box that a crash left, or a window too many
        place += length
        if kind == b"moof":
            file.seek(place - length)
            coming = sum(_samples(file.read(length)))
        elif kind == b"mdat":
            found, coming, end = found + coming, 0, place
    if found != frames or not found:
        raise UserError(
            f"{str(path)!r} is no film with a window that ends after {frames} frames "
            f"(it has {found}); give the film of this state"
        )
    return end


def encoded(frames: np.ndarray, fps: float | int) -> tuple[bytes, int]:
    """Returns a whole fragmented film, and how many ticks of its clock a frame lasts."""
    import av

    file = io.BytesIO()
    with av.open(file, "w", format="mp4", options={"movflags": MOVFLAGS}) as container:
        # Frames in the order in which they are shown: so a fragment starts where it is put.
        stream = encode_h264(container, frames, fps, {"bf": "0"})
        ticks = 1 / (stream.average_rate * stream.time_base)
    if ticks.denominator != 1:
        raise UserError(f"fps {fps:g} does not fit the clock of an .mp4; legal: such as 24 or 30")
    return file.getvalue(), int(ticks)


def _moved(fragments: bytes, at: int, ticks: int) -> bytes:
    """Returns `fragments` that start at frame `at`: their times and numbers are added to."""
    data = bytearray(fragments)
    for kind, _, body, _ in _nested(data, boxes(data)):
        if kind == b"mfhd":  # version and flags, sequence_number
            _add(data, body + 4, ">I", at)
        elif kind == b"tfdt":  # version and flags, baseMediaDecodeTime
            _add(data, body + 4, ">Q" if data[body] else ">I", at * ticks)
    return bytes(data)


def _add(data: bytearray, place: int, form: str, value: int) -> None:
    (old,) = struct.unpack_from(form, data, place)
    struct.pack_into(form, data, place, old + value)


def _samples(data: bytes) -> Iterator[int]:
    """Yields the number of frames of every run in some boxes."""
    for kind, _, body, _ in _nested(data, boxes(data)):
        if kind == b"trun":  # version and flags, sample_count
            yield struct.unpack_from(">I", data, body + 4)[0]


def _nested(data: bytes | bytearray, found: Iterator[Box]) -> Iterator[Box]:
    for box in found:
        yield box
        if box.kind in PARENTS:
            yield from _nested(data, boxes(data, box.body, box.end))


def boxes(data: bytes | bytearray, start: int = 0, end: int | None = None) -> Iterator[Box]:
    """Yields the boxes of `data` between `start` and `end`, not those inside them."""
    end = len(data) if end is None else end
    while start + 8 <= end:
        length, kind = struct.unpack_from(">I4s", data, start)
        yield Box(kind, start, start + 8, start + length)
        start += max(length, 8)


def _parts(data: bytes, kinds: tuple[bytes, ...]) -> bytes:
    return b"".join(data[box.start : box.end] for box in boxes(data) if box.kind in kinds)
