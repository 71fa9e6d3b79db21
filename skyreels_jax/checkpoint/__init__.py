"""Orbax checkpoints of a training run: state, data iterator, resolved configuration."""

from skyreels_jax.checkpoint.manager import Checkpoints, restore_params

__all__ = ["Checkpoints", "restore_params"]
