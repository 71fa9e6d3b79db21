"""A sample of a feature set as bytes, and back."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

import ml_dtypes
import numpy as np
from jaxtyping import Float, UInt16

# Text states are stored as the official pipelines compute them, in bfloat16, which holds whatever
# float32 holds; numpy's files know no such type, so they carry its bits.
STATES = np.dtype(ml_dtypes.bfloat16)
BITS = np.uint16


def pack(
    latents: Float[np.ndarray, "T h w C"],
    states: Sequence[Float[np.ndarray, "_ E"]],
    *,
    fps: int,
    subject_type: str,
) -> bytes:
    """Returns a clip with the text states of its captions: of their real tokens only."""
    file = io.BytesIO()
    np.savez(
        file,
        latents=latents.astype(np.float16),
        context=np.concatenate([to_bits(rows) for rows in states]),
        length=np.array([len(rows) for rows in states], np.int32),
        fps=np.int32(fps),
        subject_type=np.array(subject_type),
    )
    return file.getvalue()


def unpack(data: bytes) -> dict[str, Any]:
    """Returns {"latents" float16 [T, h, w, C], normalised, "context" bfloat16 [P, S, E] as a list
    of the P captions' [S, E], "fps", "subject_type"}."""
    with np.load(io.BytesIO(data)) as fields:
        values: Mapping[str, np.ndarray] = dict(fields)
    ends = np.cumsum(values["length"])[:-1]
    return {
        "latents": values["latents"],
        "context": np.split(values["context"].view(STATES), ends),
        "fps": int(values["fps"]),
        "subject_type": str(values["subject_type"]),
    }


def to_bits(states: Float[np.ndarray, "S E"]) -> UInt16[np.ndarray, "S E"]:
    """Returns the bits of text states, rounded to bfloat16."""
    return np.asarray(states).astype(STATES).view(BITS)


def padded(
    states: Float[np.ndarray, "S E"], size: int, *, max_length: int
) -> dict[str, np.ndarray]:
    """Returns {"context" [size, E], "context_weight" float32 [size]} of a text.

    The official pipelines pad with zeros to `max_length` tokens, all of which attention sees; one
    zero that counts as often is the same (`models.umt5.text.compact_context`, of which this is the
    form without padded states). size: more than the text's tokens, or max_length.
    """
    length = len(states)
    context = np.zeros((size, states.shape[1]), states.dtype)
    context[:length] = states
    weight = np.zeros(size, np.float32)
    weight[:length] = 1
    if length < max_length:
        weight[length] = max_length - length
    return {"context": context, "context_weight": weight}
