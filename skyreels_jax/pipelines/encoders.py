"""The two frozen parts of a model, VAE and text encoder, without its transformer."""

import dataclasses
import functools
import hashlib
import json
import pathlib
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Float, UInt8

from skyreels_jax.core.config import to_dict
from skyreels_jax.core.errors import UserError
from skyreels_jax.data.buckets import STRIDE
from skyreels_jax.data.features.manifest import Made
from skyreels_jax.models import layout
from skyreels_jax.models.umt5.text import clean_prompt, tokenize
from skyreels_jax.nn.whole import taken_apart
from skyreels_jax.pipelines.fingerprint import weights_state
from skyreels_jax.pipelines.generate import MAX_TOKENS, TOKEN_BUCKET, Method, compiled_call
from skyreels_jax.pipelines.places import TINY, folder_of_encoders
from skyreels_jax.pipelines.source import default_dtype, load_tokenizer
from skyreels_jax.pipelines.stream import encode_frames

FROZEN = ("vae", "text_encoder")
KEPT_TEXTS = 64


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Encoders:
    """Where they are; no weights are read yet.

    model_id: finds them again: "tiny", an absolute folder, a hub id.
    """

    model_id: str
    folder: layout.ModelFolder

    @functools.cached_property
    def fingerprint(self) -> str:
        """Names their weights, configurations and words; where they are does not matter."""
        found = [self.folder.components[name] for name in FROZEN]
        said = json.dumps([to_dict(part.config) for part in found], sort_keys=True)
        digest = hashlib.sha256(said.encode())
        digest.update(weights_state(part.weights for part in found))
        digest.update((self.folder.tokenizer / "tokenizer.json").read_bytes())
        return digest.hexdigest()[:16]

    @property
    def channels(self) -> int:
        return self.folder.components["vae"].config.z_dim

    @property
    def text_dim(self) -> int:
        return self.folder.components["text_encoder"].config.d_model

    def load(self) -> "LoadedEncoders":
        """Returns them with their weights; the text encoder in the type that is fastest here."""
        types = {"vae": "float32", "text_encoder": default_dtype()}
        parts = {
            name: layout.load_component(self.folder.components[name], dtype=dtype)
            for name, dtype in types.items()
        }
        return LoadedEncoders(parts, load_tokenizer(self.folder.tokenizer))


class LoadedEncoders:
    """`latents` of clips and `states` of texts, one at a time."""

    def __init__(self, parts: dict[str, nnx.Module], tokenizer: Any):
        self._vae, (graphdef, params) = (taken_apart(parts[name]) for name in FROZEN)
        encode = Method(graphdef, "__call__")

        @functools.lru_cache(maxsize=KEPT_TEXTS)
        def states(text: str) -> Float[np.ndarray, "S E"]:
            options = {"max_length": MAX_TOKENS, "multiple": TOKEN_BUCKET}
            tokens = tokenize(tokenizer, [clean_prompt(text)], **options)
            ids, length = tokens["input_ids"], int(tokens["length"][0])
            mask = jnp.arange(ids.shape[1])[None] < length
            return np.asarray(compiled_call(encode, params, ids, mask))[0, :length]

        self._states = states

    def states(self, text: str) -> Float[np.ndarray, "S E"]:
        """Returns the states of the real tokens of a text, which is cut at 512 of them."""
        return self._states(text)

    def latents(self, clip: UInt8[np.ndarray, "F H W 3"]) -> Float[np.ndarray, "T h w C"]:
        """Returns normalised latents of a clip by itself."""
        return encode_frames(self._vae, clip, temporal=STRIDE[0])[0]


def open_encoders(model_id: str) -> Encoders:
    """Returns the encoders of "tiny", a model folder or a hub repository.

    Raises `UserError` where there are none, and for a VAE whose latents do not have the buckets'
    stride.
    """
    path = folder_of_encoders(model_id)
    there = model_id != TINY and pathlib.Path(model_id).expanduser().exists()
    known = str(path.resolve()) if there else model_id
    encoders = Encoders(model_id=known, folder=layout.read_folder(path, model_id=known))
    vae = encoders.folder.components["vae"].config
    stride = (vae.temporal_factor, vae.spatial_factor, vae.spatial_factor)
    if stride != STRIDE:
        raise UserError(
            f"{model_id}: latents of its VAE stand for {stride} frames, rows and columns; buckets "
            f"are for {STRIDE}"
        )
    return encoders


def encoders_of(made: Made) -> Encoders:
    """Returns the encoders that made features; raises `UserError` where that model is not there any
    more, or has others now.
    """
    encoders = open_encoders(made.model)
    if encoders.fingerprint != made.encoders:
        raise UserError(
            f"the features were made by another VAE or text encoder than {made.model} has now: "
            "make them again with `skyreels-jax data encode`"
        )
    return encoders


def encoders_here(made: Made) -> Encoders | None:
    """Returns the same; None where the model is not on this machine: a folder that is elsewhere, or
    a hub repository, which is not fetched for this.
    """
    there = made.model == TINY or pathlib.Path(made.model).is_dir()
    return encoders_of(made) if there else None
