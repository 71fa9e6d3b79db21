"""What attention's backward pass needs and is dear to compute again, by name.

A rematerialisation policy that keeps these (`nn.stack`) runs attention once in a training step.
"""

import jax
from jax.ad_checkpoint import checkpoint_name

OUTPUT = "attention_output"
# jax's own cuDNN attention names nothing; its forward operation is known by this.
CUDNN_FORWARD = "dot_product_attention_fwd"


def kept(x: jax.Array) -> jax.Array:
    """Returns `x`, marked as one of them."""
    return checkpoint_name(x, OUTPUT)


def keeps(primitive, *inputs, **params) -> bool:
    """A policy of jax.checkpoint: keeps what is marked, and what cuDNN's attention gives."""
    if primitive.name.startswith(CUDNN_FORWARD):
        return True
    return jax.checkpoint_policies.save_only_these_names(OUTPUT)(primitive, *inputs, **params)
