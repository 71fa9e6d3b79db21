"""Over which mesh axes the text encoder's parameters go: as in `models.dit.sharding`."""

from jax.sharding import PartitionSpec as P

from skyreels_jax.parallel.rules import Rules

SHARDING_RULES: Rules = (
    (r"blocks/(attn/[qkv]|ffn/(gate|up))/kernel", P(None, "fsdp", "tensor")),
    (r"blocks/(attn/o|ffn/down)/kernel", P(None, "tensor", "fsdp")),
    (r"blocks/attn/relative_bias", P(None, None, "tensor")),
    (r"(blocks/norm[12]|norm)/scale", P()),
    (r"embedding", P(None, "fsdp")),
)
