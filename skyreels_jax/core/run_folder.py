"""Which folders are training runs; asked without Orbax, which takes a second to import."""

import pathlib


def is_run(path: pathlib.Path) -> bool:
    """Returns whether `path` is the folder of a training run: one that keeps checkpoints."""
    return (path / "checkpoints").is_dir()


def is_checkpoint(path: pathlib.Path) -> bool:
    """Returns whether `path` is a complete checkpoint of a training run."""
    return path.parent.name == "checkpoints" and (path / "state").is_dir()
