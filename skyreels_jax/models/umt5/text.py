"""From a prompt to what the text cross-attention reads: cleaning, tokens, contexts."""

import html
from collections.abc import Sequence
from typing import Any

import ftfy
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from skyreels_jax.core.errors import UserError


def clean_prompt(prompt: str) -> str:
    """Returns `prompt` with broken Unicode mended, HTML entities resolved, white space single.

    What the official and the diffusers pipelines do before tokenising.
    """
    return " ".join(html.unescape(html.unescape(ftfy.fix_text(prompt))).split())


def tokenize(
    tokenizer: Any, prompts: Sequence[str], *, max_length: int = 512, multiple: int = 16
) -> dict[str, Int[np.ndarray, "..."]]:
    """Returns {"input_ids": int32 [B, S], "length": int32 [B]} of cleaned prompts.

    `tokenizer` is called as those of transformers are; prompts end with its end token and are cut
    at `max_length` tokens. S is the smallest multiple of `multiple` that leaves one pad column
    after the longest prompt (`compact_context` needs it), `max_length` at most.
    Raises `UserError` without prompts.
    """
    if isinstance(prompts, str) or not len(prompts):
        raise UserError("tokenize needs a list of at least one prompt")
    rows = tokenizer(list(prompts), max_length=max_length, truncation=True)["input_ids"]
    length = np.array([len(row) for row in rows], np.int32)
    size = min(-(-(int(length.max()) + 1) // multiple) * multiple, max_length)
    pad = tokenizer.pad_token_id
    input_ids = np.array([list(row) + [pad] * (size - len(row)) for row in rows], np.int32)
    return {"input_ids": input_ids, "length": length}


def compact_context(
    hidden: Float[Array, "B S D"], length: Int[Array, "B"], max_length: int = 512
) -> tuple[Float[Array, "B S D"], Float[Array, "B S"]]:
    """Returns (context, context_weight): the pipeline's zero-padded context, short.

    The pipelines set hidden states beyond `length` to zero and let the cross-attention see all
    `max_length` of them. Equal tokens get equal scores, so one zero token that counts
    `max_length - length` times is the same softmax. Weights: 1 below `length`, that count at
    `length`, 0 beyond. S > length is needed unless length == max_length (`tokenize` sees to it).
    """
    if hidden.shape[1] > max_length:
        raise UserError(f"context of {hidden.shape[1]} tokens; at most {max_length} are legal")
    position, length = jnp.arange(hidden.shape[1])[None, :], length[:, None]
    real = position < length
    padding = jnp.where(position == length, max_length - length, 0)
    weight = jnp.where(real, 1.0, padding.astype(jnp.float32))
    return jnp.where(real[..., None], hidden, jnp.zeros((), hidden.dtype)), weight
