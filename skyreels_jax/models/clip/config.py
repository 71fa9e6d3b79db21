"""CLIP vision encoder configuration, in the field names of transformers' `config.json`."""

import dataclasses
from typing import Literal

from skyreels_jax.core.errors import UserError

# Fields of training, of other readers, and of files that transformers 4 wrote.
IGNORED = frozenset(
    ("attention_dropout", "dropout", "dtype", "model_type", "torch_dtype", "transformers_version")
)
ARCHITECTURES = ("CLIPVisionModel", "CLIPVisionModelWithProjection")


@dataclasses.dataclass(frozen=True, kw_only=True)
class CLIPVisionConfig:
    """Widths and depths of the encoder; the defaults are those of transformers' class of this name.

    architectures: ("CLIPVisionModelWithProjection",) has a projection of the pooled state to
        `projection_dim`; it is the form in which diffusers folders of SkyReels-V2 keep the encoder.
    Raises `UserError` for a combination that no model has.
    """

    architectures: tuple[str, ...] = ARCHITECTURES[:1]
    hidden_size: int = 768
    intermediate_size: int = 3072
    projection_dim: int = 512
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    num_channels: int = 3
    image_size: int = 224
    patch_size: int = 32
    hidden_act: Literal["gelu", "quick_gelu"] = "quick_gelu"
    layer_norm_eps: float = 1e-5
    initializer_range: float = 0.02
    initializer_factor: float = 1.0

    def __post_init__(self):
        if len(self.architectures) != 1 or self.architectures[0] not in ARCHITECTURES:
            legal = " or ".join(ARCHITECTURES)
            raise UserError(f"CLIPVisionConfig.architectures: {self.architectures}; legal: {legal}")
        if min(self.num_hidden_layers, self.num_attention_heads, self.patch_size) < 1:
            raise UserError("CLIPVisionConfig: layers, heads and patch_size must be at least 1")
        if self.hidden_size % self.num_attention_heads:
            raise UserError(
                f"CLIPVisionConfig.hidden_size {self.hidden_size} is not a multiple of "
                f"num_attention_heads = {self.num_attention_heads}"
            )
        if self.image_size % self.patch_size:
            raise UserError(
                f"CLIPVisionConfig.image_size {self.image_size} is not a multiple of "
                f"patch_size = {self.patch_size}"
            )

    @property
    def projects(self) -> bool:
        """Whether there is a projection of the pooled state."""
        return self.architectures == ARCHITECTURES[1:]

    @property
    def tokens(self) -> int:
        """Hidden states per image: the class token and one per patch."""
        return (self.image_size // self.patch_size) ** 2 + 1


# laion/CLIP-ViT-H-14-laion2B-s32B-b79K and the vision half of Wan's
# `models_clip_open-clip-xlm-roberta-large-vit-huge-14.pth`: 257 states of 1280.
VIT_H_14 = CLIPVisionConfig(
    architectures=ARCHITECTURES[1:],
    hidden_size=1280,
    intermediate_size=5120,
    projection_dim=1024,
    num_hidden_layers=32,
    num_attention_heads=16,
    patch_size=14,
    hidden_act="gelu",
)
