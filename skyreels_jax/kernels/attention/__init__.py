"""Scaled dot-product attention: `attention(q, k, v, mask=Mask(...))`."""

from skyreels_jax.kernels.attention.api import IMPLEMENTATIONS, attention
from skyreels_jax.kernels.attention.mask import Mask

__all__ = ["IMPLEMENTATIONS", "Mask", "attention"]
