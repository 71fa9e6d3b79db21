"""Names of the UMT5 encoder's tensors in transformers' folders and in Wan's checkpoint."""

from skyreels_jax.models.umt5.config import UMT5Config
from skyreels_jax.weights.table import Rule, Table
from skyreels_jax.weights.transforms import LINEAR


def diffusers_table(config: UMT5Config) -> Table:
    """Returns the table of transformers' `UMT5EncoderModel` (a folder's `text_encoder/`)."""
    del config  # every variant has the same tensors
    attention = "encoder.block.{i}.layer.0"
    feed_forward = "encoder.block.{i}.layer.1"
    return (
        Rule("shared.weight", "embedding", tied="encoder.embed_tokens.weight"),
        *(
            Rule(f"{attention}.SelfAttention.{n}.weight", f"blocks/attn/{n}/kernel", LINEAR)
            for n in "qkvo"
        ),
        Rule(
            f"{attention}.SelfAttention.relative_attention_bias.weight", "blocks/attn/relative_bias"
        ),
        Rule(f"{attention}.layer_norm.weight", "blocks/norm1/scale"),
        Rule(f"{feed_forward}.DenseReluDense.wi_0.weight", "blocks/ffn/gate/kernel", LINEAR),
        Rule(f"{feed_forward}.DenseReluDense.wi_1.weight", "blocks/ffn/up/kernel", LINEAR),
        Rule(f"{feed_forward}.DenseReluDense.wo.weight", "blocks/ffn/down/kernel", LINEAR),
        Rule(f"{feed_forward}.layer_norm.weight", "blocks/norm2/scale"),
        Rule("encoder.final_layer_norm.weight", "norm/scale"),
    )


def official_table(config: UMT5Config) -> Table:
    """Returns the table of `models_t5_umt5-xxl-enc-bf16.pth` (Wan 2.1, `wan/modules/t5.py`)."""
    del config
    return (
        Rule("token_embedding.weight", "embedding"),
        *(Rule(f"blocks.{{i}}.attn.{n}.weight", f"blocks/attn/{n}/kernel", LINEAR) for n in "qkvo"),
        Rule("blocks.{i}.pos_embedding.embedding.weight", "blocks/attn/relative_bias"),
        Rule("blocks.{i}.norm1.weight", "blocks/norm1/scale"),
        Rule("blocks.{i}.ffn.gate.0.weight", "blocks/ffn/gate/kernel", LINEAR),
        Rule("blocks.{i}.ffn.fc1.weight", "blocks/ffn/up/kernel", LINEAR),
        Rule("blocks.{i}.ffn.fc2.weight", "blocks/ffn/down/kernel", LINEAR),
        Rule("blocks.{i}.norm2.weight", "blocks/norm2/scale"),
        Rule("norm.weight", "norm/scale"),
    )
