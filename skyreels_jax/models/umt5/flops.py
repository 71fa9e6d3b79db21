"""How many operations the text encoder takes: products, by formula; two are a multiply-add."""

from skyreels_jax.models.umt5.config import UMT5Config


def forward_flops(config: UMT5Config, tokens: int) -> int:
    """Returns the operations of the whole encoder on one text of `tokens`, padding included."""
    inner = config.num_heads * config.d_kv
    projections = 2 * tokens * config.d_model * 4 * inner
    attention = 4 * tokens * tokens * inner
    feed_forward = 2 * tokens * config.d_model * 3 * config.d_ff
    return config.num_layers * (projections + attention + feed_forward)
