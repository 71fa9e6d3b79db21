"""Configuration of the diffusion transformer: the fields of a diffusers `transformer/config.json`."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from skyreels_jax.core.config import from_dict
from skyreels_jax.core.errors import UserError

# Keys met in config.json files that change nothing here.
IGNORED = {
    "window_size": "official releases carry (-1, -1) = no window; no code reads it",
    "text_len": "the text encoder pads; the transformer takes any number of tokens",
    "model_type": "follows from image_dim",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class DiTConfig:
    """Sizes of the model; defaults as in diffusers. Raises `UserError` on impossible combinations.

    Every field is read, with two remarks: `qk_norm` has one legal value (diffusers always applies the
    norm across heads, whatever it says), and `added_kv_proj_dim` must equal the width.
    """

    patch_size: tuple[int, int, int] = (1, 2, 2)
    num_attention_heads: int = 16
    attention_head_dim: int = 128
    in_channels: int = 16
    out_channels: int | None = 16
    text_dim: int = 4096
    freq_dim: int = 256
    ffn_dim: int = 8192
    num_layers: int = 32
    cross_attn_norm: bool = True
    qk_norm: str | None = "rms_norm_across_heads"
    eps: float = 1e-6
    image_dim: int | None = None
    added_kv_proj_dim: int | None = None
    rope_max_seq_len: int = 1024
    pos_embed_seq_len: int | None = None
    inject_sample_info: bool = False
    num_frame_per_block: int = 1

    def __post_init__(self):
        if self.qk_norm != "rms_norm_across_heads":
            raise UserError(
                f"DiTConfig.qk_norm: only 'rms_norm_across_heads' exists, got {self.qk_norm!r}"
            )
        if (self.image_dim is None) != (self.added_kv_proj_dim is None):
            raise UserError("DiTConfig: set both image_dim and added_kv_proj_dim, or neither")
        if self.added_kv_proj_dim not in (None, self.width):
            raise UserError(
                f"DiTConfig.added_kv_proj_dim: must be the width, heads x head dim = {self.width}, "
                f"got {self.added_kv_proj_dim}"
            )
        if self.attention_head_dim % 2 or self.freq_dim % 2:
            raise UserError("DiTConfig: attention_head_dim and freq_dim must be even")
        if self.num_frame_per_block < 1 or self.num_layers < 1:
            raise UserError("DiTConfig: num_frame_per_block and num_layers must be at least 1")

    @property
    def width(self) -> int:
        """Width D of the residual stream."""
        return self.num_attention_heads * self.attention_head_dim

    @property
    def patch_channels(self) -> int:
        """Output values per token."""
        return math.prod(self.patch_size) * (self.out_channels or self.in_channels)


def from_diffusers(values: Mapping[str, Any]) -> DiTConfig:
    """Returns the config of a diffusers config.json; unknown keys raise `UserError`."""
    return from_dict(DiTConfig, values, ignore=IGNORED)
