"""How many operations the transformer takes: products, by formula; a multiply-add counts as two."""

import math

from skyreels_jax.models.dit.config import DiTConfig


def block_flops(config: DiTConfig, grid: tuple[int, int, int], *, text: int, image: int = 0) -> int:
    """Returns the operations of one block on one clip, forward.

    grid: tokens in time, height and width; text, image: tokens of the conditions.
    """
    length, width = math.prod(grid), config.width
    projections = 2 * width * width * (4 * length + 2 * length + 2 * text + 2 * image)
    feed_forward = 2 * 2 * length * width * config.ffn_dim
    return projections + feed_forward + attention_flops(config, grid, text=text, image=image)


def attention_flops(
    config: DiTConfig, grid: tuple[int, int, int], *, text: int, image: int = 0
) -> int:
    """Returns the operations of one block's attention: scores and what is weighed by them."""
    length, block = math.prod(grid), config.num_frame_per_block
    seen = length
    if block > 1:  # a frame sees its own block and those before it: on average half of all and more
        blocks = -(-grid[0] // block)
        seen = length * (blocks + 1) / (2 * blocks)
    return int(4 * length * config.width * (seen + text + image))


def forward_flops(
    config: DiTConfig, grid: tuple[int, int, int], *, text: int, image: int = 0
) -> int:
    """Returns the operations of the whole model on one clip, forward."""
    length, width = math.prod(grid), config.width
    patch = math.prod(config.patch_size)
    ends = 2 * length * width * (patch * config.in_channels + config.patch_channels)
    ends += 2 * text * (config.text_dim * width + width * width)
    if image:
        ends += 2 * image * (config.image_dim**2 + config.image_dim * width)
    return ends + config.num_layers * block_flops(config, grid, text=text, image=image)


def train_flops(config: DiTConfig, grid: tuple[int, int, int], *, text: int, image: int = 0) -> int:
    """Returns the operations that a training step needs for one clip: forward and, at twice the
    cost, backward. What is computed again to save memory does not count: it trains nothing.
    """
    return 3 * forward_flops(config, grid, text=text, image=image)
