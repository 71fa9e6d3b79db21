"""Orbax checkpoints of a training run: state, data iterator, resolved configuration."""

from skyreels_jax.checkpoint.manager import Checkpoints, restore_params
from skyreels_jax.checkpoint.room import check_room

__all__ = ["Checkpoints", "check_room", "restore_params"]
