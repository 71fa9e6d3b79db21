"""Training runs that end with given parameters, without any training."""

import pathlib
from typing import NamedTuple

import jax
import numpy as np

from skyreels_jax.checkpoint import Checkpoints
from skyreels_jax.core.config import to_dict
from skyreels_jax.models.kinds import TRAINED
from skyreels_jax.testing.micro import micro_configs, random_params


class State(NamedTuple):
    """As `training.state.TrainState`, with little more than parameters."""

    step: np.ndarray
    params: dict
    ema: dict | None


def trained(scale=1.0):
    """Returns the parameters of the micro model's trained parts, times `scale`."""
    configs = micro_configs()
    made = {name: random_params(name, configs[name]) for name in TRAINED}
    return jax.tree.map(lambda leaf: np.float32(scale) * leaf, made)


def run_config(vae: pathlib.Path) -> dict:
    """Returns the resolved config of a run that trained the micro model."""
    configs = micro_configs()
    return {
        "kind": "text_to_video",
        "model": {name: to_dict(configs[name]) for name in TRAINED},
        "data": {"vae": str(vae), "num_frames": 9, "middle": 0.0},
        "stages": [{"frames": 0}],
        "flow_shift": 3.0,
    }


def save(run: pathlib.Path, step: int, params, ema, *, vae: pathlib.Path) -> None:
    """Writes a checkpoint of a run."""
    state = State(np.int32(step).reshape(()), params, ema)
    with Checkpoints(run / "checkpoints") as checkpoints:
        checkpoints.save(step, state, data={}, config=run_config(vae))
