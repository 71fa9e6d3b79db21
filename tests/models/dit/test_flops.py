"""Operations by formula against the compiler's count."""

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from skyreels_jax.kernels.attention import Mask
from skyreels_jax.models.dit.blocks import Block
from skyreels_jax.models.dit.config import DiTConfig
from skyreels_jax.models.dit.flops import block_flops, forward_flops, train_flops
from skyreels_jax.nn.rope import rope_table

GRID, TEXT = (4, 12, 16), 64
BIG = DiTConfig(num_attention_heads=12, attention_head_dim=128, ffn_dim=8960, num_layers=30)


def test_one_layer_within_five_percent_of_the_compilers_count():
    config = DiTConfig(num_attention_heads=4, attention_head_dim=64, ffn_dim=1024, num_layers=1)
    block = nnx.eval_shape(lambda: Block(config, rngs=nnx.Rngs(0)))
    graphdef, state = nnx.split(block)

    def run(state, x, modulation, context):
        rope = rope_table(GRID, head_dim=64, max_seq_len=64)
        more = {"image": None, "mask": None, "context_mask": Mask(), "rope": rope}
        attention = jax.nn.dot_product_attention

        def attend(q, k, v, *, mask=None):
            flat = [y.reshape(1, -1, *y.shape[-2:]) for y in (q, k, v)]
            return attention(*flat, implementation="xla").reshape(q.shape)

        return nnx.merge(graphdef, state)(x, modulation, context=context, attention=attend, **more)

    shapes = [(1, GRID[0], GRID[1] * GRID[2], 256), (1, 1, 6, 256), (1, TEXT, 256)]
    arguments = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    counted = jax.jit(run).lower(state, *arguments).compile().cost_analysis()["flops"]
    assert block_flops(config, GRID, text=TEXT) == pytest.approx(counted, rel=0.05)


def test_the_released_model_at_540p():
    """The facts' estimate: one forward of 1.3B on 97 frames, 6.1e14, most of it attention."""
    flops = forward_flops(BIG, (25, 34, 60), text=512)
    assert flops == pytest.approx(6.1e14, rel=0.05)
    assert train_flops(BIG, (25, 34, 60), text=512) == 3 * flops


def test_blocks_that_see_no_later_ones_cost_less():
    causal = DiTConfig(num_attention_heads=12, ffn_dim=8960, num_frame_per_block=5)
    full = DiTConfig(num_attention_heads=12, ffn_dim=8960)
    saved = block_flops(full, (25, 34, 60), text=0) - block_flops(causal, (25, 34, 60), text=0)
    assert saved == int(4 * 51_000 * 1536 * 51_000 * (1 - 6 / 10))
