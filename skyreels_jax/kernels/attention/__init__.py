"""Scaled dot-product attention: `attention(q, k, v, mask=Mask(...))`."""

from skyreels_jax.kernels.attention.api import IMPLEMENTATIONS, attention, attention_lse
from skyreels_jax.kernels.attention.mask import MASKED, Mask

__all__ = ["IMPLEMENTATIONS", "MASKED", "Mask", "attention", "attention_lse"]
