"""Orbax checkpoints of a training run: state, data iterator, resolved configuration."""

from skyreels_jax.checkpoint.manager import Checkpoints
from skyreels_jax.checkpoint.reader import (
    CheckpointParams,
    find_checkpoint,
    placed,
    restore_params,
)
from skyreels_jax.checkpoint.room import check_room
from skyreels_jax.checkpoint.writer import Leaf, write_checkpoint

__all__ = [
    "CheckpointParams",
    "Checkpoints",
    "Leaf",
    "check_room",
    "find_checkpoint",
    "placed",
    "restore_params",
    "write_checkpoint",
]
