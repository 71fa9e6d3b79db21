"""Scaled dot-product attention: `attention(q, k, v, mask=Mask(...))`."""

from skyreels_jax.kernels.attention.api import (
    IMPLEMENTATIONS,
    Attention,
    attention,
    attention_gradients,
    attention_lse,
)
from skyreels_jax.kernels.attention.mask import MASKED, Mask

__all__ = [
    "IMPLEMENTATIONS",
    "MASKED",
    "Attention",
    "Mask",
    "attention",
    "attention_gradients",
    "attention_lse",
]
