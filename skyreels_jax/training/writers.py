"""Where the numbers and pictures of a run go: its folder, TensorBoard, Weights & Biases."""

import importlib.util
import pathlib
import uuid
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import jax
import numpy as np
from jaxtyping import UInt8

from skyreels_jax.core.config import to_dict
from skyreels_jax.core.errors import UserError
from skyreels_jax.training.config import TrainConfig
from skyreels_jax.training.metrics import MetricsLog

PACKAGES = {"tensorboard": "tensorboardX", "wandb": "wandb"}  # by name in a config
Image = UInt8[np.ndarray, "H W 3"]


@runtime_checkable
class Writer(Protocol):
    """Takes what a run says of its steps, which never fall.

    One that goes on in the place of an interrupted run shows none of that run's later steps, or
    leaves out what it has of them already.
    """

    def write(self, step: int, row: Mapping[str, float]) -> None:
        """Takes the numbers of the window that ends with `step`."""
        ...

    def image(self, step: int, name: str, image: Image) -> None:
        """Takes a picture of `name` after `step`."""
        ...

    def close(self) -> None:
        """Ends; what was taken is where it belongs."""
        ...


def check_writers(names: Sequence[str]) -> None:
    """Raises `UserError` for a writer whose package is not installed."""
    for name in names:
        if importlib.util.find_spec(PACKAGES[name]) is None:
            raise UserError(
                f"writers: {name} needs the package {PACKAGES[name]}; pip install "
                f"{PACKAGES[name]}, or leave it out of writers"
            )


def open_writers(config: TrainConfig, folder: pathlib.Path, *, step: int) -> list[Writer]:
    """Returns the writers of a run that goes on from `step`; of many processes, the first has all.

    Raises `UserError` as `check_writers` does.
    """
    check_writers(config.writers)
    if jax.process_index():
        return []
    writers: list[Writer] = [MetricsLog(folder / "metrics.csv", step=step)]
    if "tensorboard" in config.writers:
        writers.append(TensorBoard(folder / "tensorboard", step=step))
    if "wandb" in config.writers:
        writers.append(WandB(folder, step=step, config=to_dict(config)))
    return writers


class TensorBoard:
    """Event files in `folder`, without TensorFlow.

    The first event says from which step on TensorBoard is to forget what other files there hold.
    """

    def __init__(self, folder: pathlib.Path, *, step: int):
        from tensorboardX import SummaryWriter

        # Files of the same second would have the same name. Seconds: what a kill may cost.
        options = {"filename_suffix": f".{step}", "flush_secs": 2}
        self._writer = SummaryWriter(str(folder), purge_step=step + 1, **options)

    def write(self, step: int, row: Mapping[str, float]) -> None:
        for name, value in row.items():
            self._writer.add_scalar(name, value, step)

    def image(self, step: int, name: str, image: Image) -> None:
        self._writer.add_image(name, image, step, dataformats="HWC")

    def close(self) -> None:
        self._writer.close()


class WandB:
    """A run of Weights & Biases, as its own environment variables say (WANDB_PROJECT, _MODE, ...).

    `folder`/wandb_id names it; a run that goes on from a checkpoint goes on there as well. Steps
    that W&B knows already it ignores: they were the same.
    """

    def __init__(self, folder: pathlib.Path, *, step: int, config: Mapping[str, Any]):
        import wandb

        place = folder / "wandb_id"
        if not step or not place.exists():
            place.write_text(uuid.uuid4().hex[:8])
        self._image = wandb.Image
        self._run = wandb.init(
            id=place.read_text(), resume="allow", name=folder.name, dir=str(folder), config=config
        )

    def write(self, step: int, row: Mapping[str, float]) -> None:
        self._run.log(dict(row), step=step)

    def image(self, step: int, name: str, image: Image) -> None:
        self._run.log({name: self._image(image)}, step=step)

    def close(self) -> None:
        self._run.finish()
