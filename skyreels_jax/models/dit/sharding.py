"""Over which mesh axes the transformer's parameters go.

Inputs of a product over "fsdp", its heads or hidden units over "tensor": the first product of a
pair is divided by what comes out, the second by what goes in, so that between them nothing is
exchanged.
"""

from jax.sharding import PartitionSpec as P

from skyreels_jax.models.dit.config import DiTConfig
from skyreels_jax.parallel.rules import Rules

BLOCKS: Rules = (
    (r"blocks/(attn[12]/(q|k|v|k_img|v_img)|ffn/up)/kernel", P(None, "fsdp", "tensor")),
    (r"blocks/(attn[12]/(q|k|v|k_img|v_img)|ffn/up)/bias", P(None, "tensor")),
    (r"blocks/attn[12]/norm_(q|k|k_img)/scale", P(None, "tensor")),
    (r"blocks/(attn[12]/o|ffn/down)/kernel", P(None, "tensor", "fsdp")),
    (r"blocks/(attn[12]/o|ffn/down)/bias", P()),
    (r"blocks/modulation", P()),
)
ENDS: Rules = (
    (r"patch_embedding/kernel", P(None, None, None, None, "fsdp")),
    (r"(text|time)_embedder/up/kernel", P("fsdp", "tensor")),
    (r"(text|time)_embedder/up/bias", P("tensor")),
    (r"(text|time)_embedder/down/kernel", P("tensor", "fsdp")),
    (r"(time_proj|head)/kernel", P("fsdp")),
    (r"(patch_embedding|(text|time)_embedder/down|time_proj|head)/bias", P()),
    (r"head_modulation", P()),
)
NORM: Rules = ((r"blocks/norm2/(scale|bias)", P()),)
IMAGE: Rules = (
    (r"image_embedder/mlp/(up|down)/kernel", P("fsdp")),
    (r"image_embedder/(mlp/(up|down)/bias|norm[12]/(scale|bias))", P()),
)
POSITIONS: Rules = ((r"image_embedder/pos_embed", P()),)
RATES: Rules = (
    (r"fps_embedder/projection/(up|down)/kernel", P("fsdp")),
    (r"fps_embedder/(embedding|projection/(up|down)/bias)", P()),
)


def sharding_rules(config: DiTConfig) -> Rules:
    """Returns the rules of a model of `config`."""
    wanted = (
        (BLOCKS, True),
        (ENDS, True),
        (NORM, config.cross_attn_norm),
        (IMAGE, config.image_dim is not None),
        (POSITIONS, config.image_dim is not None and config.pos_embed_seq_len is not None),
        (RATES, config.inject_sample_info),
    )
    return tuple(rule for rules, needed in wanted if needed for rule in rules)
