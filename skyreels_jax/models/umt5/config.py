"""UMT5 encoder configuration, in the field names of transformers' `config.json`."""

import dataclasses
from typing import Literal

from skyreels_jax.core.errors import UserError

# Fields of the encoder-decoder, or of its training, that say nothing about the encoder's output.
IGNORED = frozenset(
    (
        "architectures", "bos_token_id", "classifier_dropout", "decoder_start_token_id",
        "dense_act_fn", "dropout_rate", "dtype", "eos_token_id", "is_decoder", "is_encoder_decoder",
        "is_gated_act", "model_type", "num_decoder_layers", "output_past", "pad_token_id",
        "scalable_attention", "scale_decoder_outputs", "tie_word_embeddings", "tokenizer_class",
        "torch_dtype", "transformers_version", "use_cache",
    )
)  # fmt: skip


@dataclasses.dataclass(frozen=True, kw_only=True)
class UMT5Config:
    """Widths and depths of the encoder; the defaults are those of transformers' `UMT5Config`.

    Raises `UserError` for sizes below 1.
    """

    vocab_size: int = 250112
    d_model: int = 512
    d_kv: int = 64
    d_ff: int = 1024
    num_layers: int = 8
    num_heads: int = 6
    relative_attention_num_buckets: int = 32
    relative_attention_max_distance: int = 128
    layer_norm_epsilon: float = 1e-6
    initializer_factor: float = 1.0
    feed_forward_proj: Literal["gated-gelu"] = "gated-gelu"

    def __post_init__(self):
        sizes = ("vocab_size", "d_model", "d_kv", "d_ff", "num_layers", "num_heads")
        sizes += ("relative_attention_num_buckets", "relative_attention_max_distance")
        if small := [name for name in sizes if getattr(self, name) < 1]:
            raise UserError(f"UMT5Config: {', '.join(small)} must be at least 1")


# google/umt5-xxl, the text encoder of Wan 2.1 and SkyReels-V2 (`models_t5_umt5-xxl-enc-bf16.pth`).
XXL = UMT5Config(vocab_size=256384, d_model=4096, d_kv=64, d_ff=10240, num_layers=24, num_heads=64)
