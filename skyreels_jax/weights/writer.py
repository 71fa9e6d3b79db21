"""Safetensors files, in shards with an index where one file would be too large."""

import json
import pathlib
from collections.abc import Iterable, Mapping

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import save_file

Tensors = Iterable[tuple[str, np.ndarray]]


def write_file(
    path: pathlib.Path, tensors: Mapping[str, np.ndarray], *, metadata: Mapping[str, str]
) -> None:
    """Writes one safetensors file, which whoever may read new files may read.

    Raises `OSError` where it cannot be written.
    """
    path.touch()
    mode = path.stat().st_mode
    try:
        save_file(dict(tensors), path, metadata=dict(metadata))
    except SafetensorError as error:  # such as a full disk
        raise OSError(str(error)) from None
    path.chmod(mode)  # safetensors makes files that nobody else may read


def write_safetensors(
    folder: str | pathlib.Path, tensors: Tensors, *, max_shard_bytes: int, basename: str
) -> list[pathlib.Path]:
    """Writes `tensors` to `folder`/`basename`.safetensors, or to numbered shards with an index.

    One shard at a time is in memory. A tensor larger than `max_shard_bytes` gets a shard of its
    own. Nothing is left behind when `tensors` raises. Returns the weight files.
    """
    folder = pathlib.Path(folder)
    shards: list[tuple[pathlib.Path, list[str]]] = []
    total, seen = 0, set()

    def flush(shard):
        path = folder / f"{basename}-{len(shards) + 1:05d}.partial"
        shards.append((path, list(shard)))
        write_file(path, shard, metadata={"format": "pt"})  # transformers asks for the key

    try:
        shard: dict[str, np.ndarray] = {}
        for name, array in tensors:
            if name in seen:
                raise ValueError(f"tensor {name!r} is written twice")
            seen.add(name)
            held = sum(a.nbytes for a in shard.values())
            if shard and held + array.nbytes > max_shard_bytes:
                flush(shard)
                shard = {}
            shard[name] = np.asarray(array, order="C")
            total += array.nbytes
        flush(shard)
        return _publish(folder, shards, total, basename)
    finally:
        for path, _ in shards:
            path.unlink(missing_ok=True)


def _publish(folder, shards, total, basename) -> list[pathlib.Path]:
    files, weight_map = [], {}
    for number, (path, names) in enumerate(shards, start=1):
        tail = "" if len(shards) == 1 else f"-{number:05d}-of-{len(shards):05d}"
        files.append(path.rename(folder / f"{basename}{tail}.safetensors"))
        weight_map.update(dict.fromkeys(names, files[-1].name))
    if len(shards) > 1:
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        text = json.dumps(index, indent=2, sort_keys=True) + "\n"
        (folder / f"{basename}.safetensors.index.json").write_text(text)
    return files
