"""Text encoder and diffusion transformer as one model: what training and sampling call."""

from typing import Any

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from skyreels_jax.core.errors import UserError
from skyreels_jax.core.types import Latents, Time, TokenIds
from skyreels_jax.models.umt5.text import compact_context


class TextToVideo(nnx.Module):
    """Velocity of video latents from text tokens or from ready text states.

    `text_encoder` is any module called as `(input_ids [B, S], mask [B, S]) -> [B, S, E]`, or None
    for a model that is given ready text states only;
    `transformer` is called as `(latents, timestep, context, *, context_weight, fps,
    image_context)`, and with `text` in place of these where it can `read`.
    `max_length` is the token count to which the official pipeline pads with zeros.
    """

    def __init__(
        self, transformer: nnx.Module, text_encoder: nnx.Module | None, *, max_length: int = 512
    ):
        self.transformer = transformer
        self.text_encoder = text_encoder
        self.max_length = max_length

    def encode(self, input_ids: TokenIds, length: Int[Array, "B"]) -> dict[str, Array]:
        """Returns `context` [B, S, E] and `context_weight` [B, S] of texts of `length` tokens.

        Raises `UserError` without a text encoder.
        """
        if self.text_encoder is None:
            raise UserError("this model has no text encoder: pass context with context_weight")
        mask = jnp.arange(input_ids.shape[1])[None, :] < length[:, None]
        hidden = self.text_encoder(input_ids, mask)
        context, weight = compact_context(hidden, length, max_length=self.max_length)
        return {"context": context, "context_weight": weight}

    def read(self, context: Float[Array, "B S E"], **conditions: Any) -> Any:
        """Returns the `text` that the transformer makes of text and image states, for all steps."""
        return self.transformer.read(context, **conditions)

    def embed_time(
        self, timestep: Time, fps: Int[Array, "B"] | None = None
    ) -> tuple[Float[Array, "B t D"], Float[Array, "B t 6 D"]]:
        """Returns the transformer's time embedding and its modulation of the blocks, float32."""
        return self.transformer.embed_time(timestep, fps)

    def __call__(
        self,
        latents: Latents,
        timestep: Time,
        *,
        input_ids: TokenIds | None = None,
        length: Int[Array, "B"] | None = None,
        context: Float[Array, "B S E"] | None = None,
        context_weight: Float[Array, "B S"] | None = None,
        text: Any = None,
        image_channels: Float[Array, "B T H W M"] | None = None,
        **conditions: Any,
    ) -> Float[Array, "B T H W O"]:
        """Returns the velocity. Pass `input_ids` and `length`, or what `encode` made of them, or
        the `text` that `read` made of that.

        `image_channels` are appended to the latents: the mask and the latents of the image, in
        image-to-video models, which read noise, mask and image in this order.
        `conditions` (`fps`, `image_context`, `attention`, `run_blocks`) go to the transformer.
        Raises `UserError` when both or neither kind of text is given.
        """
        given = sum(form is not None for form in (input_ids, context, text))
        if given != 1 or (input_ids is None) != (length is None):
            raise UserError(
                "pass input_ids with length, or context with context_weight, or text: one of these"
            )
        if input_ids is not None:
            encoded = self.encode(input_ids, length)
            context, context_weight = encoded["context"], encoded["context_weight"]
        if image_channels is not None:
            image_channels = image_channels.astype(latents.dtype)
            latents = jnp.concatenate([latents, image_channels], axis=-1)
        if text is not None:
            return self.transformer(latents, timestep, text=text, **conditions)
        return self.transformer(
            latents,
            timestep,
            context,
            context_weight=context_weight,
            **conditions,
        )
