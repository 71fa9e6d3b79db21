"""The diffusion transformer of SkyReels-V2 (the Wan 2.1 architecture)."""

from skyreels_jax.models.dit.config import DiTConfig
from skyreels_jax.models.dit.modeling import SkyReelsV2Transformer3D

__all__ = ["DiTConfig", "SkyReelsV2Transformer3D"]
