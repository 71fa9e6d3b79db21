"""Configuration of the diffusion transformer: the fields of diffusers' transformer/config.json."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from skyreels_jax.core.config import from_dict
from skyreels_jax.core.errors import UserError

# Fields of the official config.json by our names.
OFFICIAL = {
    "in_dim": "in_channels",
    "out_dim": "out_channels",
    "num_heads": "num_attention_heads",
}
# Fields that change nothing here, and why.
OFFICIAL_IGNORED = {
    "text_len": "the text encoder pads; the transformer takes any number of tokens",
    "window_size": "always (-1, -1), no window; no official code reads it",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class DiTConfig:
    """Sizes of the model; defaults as in diffusers. Raises `UserError` on impossible combinations.

    Every field is read. `qk_norm` has one legal value (diffusers norms across heads whatever it
    says); `added_kv_proj_dim` must equal the width (that of the image embedding it reads).
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
        sizes = ("num_attention_heads", "attention_head_dim", "in_channels", "text_dim", "freq_dim")
        sizes += ("ffn_dim", "num_layers", "rope_max_seq_len", "num_frame_per_block")
        small = [name for name in sizes if getattr(self, name) < 1]
        if small or min(self.patch_size) < 1:
            raise UserError(f"DiTConfig: {', '.join(small or ['patch_size'])} must be at least 1")
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

    @property
    def width(self) -> int:
        """Width D of the residual stream."""
        return self.num_attention_heads * self.attention_head_dim

    @property
    def patch_channels(self) -> int:
        """Output values per token."""
        return math.prod(self.patch_size) * (self.out_channels or self.in_channels)


def from_official(values: Mapping[str, Any]) -> DiTConfig:
    """Returns the config of an official SkyReels-V2 config.json.

    Raises `UserError` on a key that has no meaning here, an unknown model_type, a width that the
    heads do not divide, and where the norm of q and k is off.
    """
    values = {
        k: v for k, v in values.items() if not k.startswith("_") and k not in OFFICIAL_IGNORED
    }
    if not values.pop("qk_norm", True):
        raise UserError("config.json: qk_norm must be true")
    kind = values.pop("model_type", "t2v")
    if kind not in ("t2v", "i2v"):
        raise UserError(f"config.json: model_type {kind!r} is not one of 't2v', 'i2v'")
    width, heads = values.pop("dim", 2048), values.get("num_heads", 16)
    whole = isinstance(width, int) and isinstance(heads, int)
    if not whole or heads < 1 or width < heads or width % heads:
        raise UserError(f"config.json: dim {width!r} is not a multiple of num_heads {heads!r}")
    ours = {OFFICIAL.get(name, name): value for name, value in values.items()}
    ours["attention_head_dim"] = width // heads
    if kind == "i2v":
        ours |= {"image_dim": 1280, "added_kv_proj_dim": width}
    return from_dict(DiTConfig, ours)


_1B = {"num_attention_heads": 12, "ffn_dim": 8960, "num_layers": 30}
_14B = {"num_attention_heads": 40, "ffn_dim": 13824, "num_layers": 40}
# Noise, the first frame and its mask along channels; CLIP ViT-H tokens in a second cross-attention.
_I2V = {"in_channels": 36, "image_dim": 1280}

# The published sizes (diffusers' conversion script; 1.3B T2V was announced and not released).
CONFIGS = {
    "SkyReels-V2-T2V-1.3B-540P": DiTConfig(**_1B),
    "SkyReels-V2-I2V-1.3B-540P": DiTConfig(**_1B, **_I2V, added_kv_proj_dim=1536),
    "SkyReels-V2-DF-1.3B-540P": DiTConfig(**_1B, inject_sample_info=True),
    "SkyReels-V2-T2V-14B-540P": DiTConfig(**_14B),
    "SkyReels-V2-T2V-14B-720P": DiTConfig(**_14B),
    "SkyReels-V2-I2V-14B-540P": DiTConfig(**_14B, **_I2V, added_kv_proj_dim=5120),
    "SkyReels-V2-I2V-14B-720P": DiTConfig(**_14B, **_I2V, added_kv_proj_dim=5120),
    "SkyReels-V2-DF-14B-540P": DiTConfig(**_14B),
    "SkyReels-V2-DF-14B-720P": DiTConfig(**_14B),
}
