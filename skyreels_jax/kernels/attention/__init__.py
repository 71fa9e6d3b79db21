"""Scaled dot-product attention: `attention(q, k, v, mask=Mask(...))`."""

from skyreels_jax.kernels.attention.api import IMPLEMENTATIONS, attention, attention_lse
from skyreels_jax.kernels.attention.mask import Mask

__all__ = ["IMPLEMENTATIONS", "Mask", "attention", "attention_lse"]
