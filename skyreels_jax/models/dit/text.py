"""What all layers of a transformer read of text and image, computed once and not in each step."""

from typing import TYPE_CHECKING, NamedTuple

from jaxtyping import Array, Float

from skyreels_jax.models.dit.blocks import KV, Block
from skyreels_jax.nn.stack import fold

if TYPE_CHECKING:
    from skyreels_jax.models.dit.modeling import SkyReelsV2Transformer3D


class TextKV(NamedTuple):
    """The keys and values of text (and image) in the cross-attention of every layer.

    weight: how many times each token of the text counts (None: once).
    """

    kv: KV  # [depth, B, S, N, K]
    weight: Float[Array, "B S"] | None
    image: KV | None = None  # [depth, B, Si, N, K]


def text_kv(
    model: "SkyReelsV2Transformer3D",
    context: Float[Array, "B S E"],
    context_weight: Float[Array, "B S"] | None = None,
    image_context: Float[Array, "B Si I"] | None = None,
) -> TextKV:
    """Returns what `model` reads of text states, and of image states where it takes these: the same
    for all times, frames and latents.
    """
    context = model.text_embedder(context)
    image = None if image_context is None else model.image_embedder(image_context)

    def step(block: Block, carry: None, own: None) -> tuple[None, tuple[KV, KV | None]]:
        picture = None if image is None else block.attn2.image_kv(image)
        return carry, (block.attn2.text_kv(context), picture)

    text, picture = fold(model.blocks, step, None)[1]
    return TextKV(text, context_weight, picture)
