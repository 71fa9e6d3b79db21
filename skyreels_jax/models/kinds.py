"""The sorts of components that a model folder may hold, and what each becomes."""

import dataclasses
import functools
import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from skyreels_jax.core.tree import path_name
from skyreels_jax.core.types import Params
from skyreels_jax.models.clip import config as clip_config
from skyreels_jax.models.clip import weights as clip_weights
from skyreels_jax.models.clip.modeling import CLIPVisionEncoder
from skyreels_jax.models.dit import config as dit_config
from skyreels_jax.models.dit import weights as dit_weights
from skyreels_jax.models.dit.modeling import SkyReelsV2Transformer3D
from skyreels_jax.models.umt5 import config as umt5_config
from skyreels_jax.models.umt5 import weights as umt5_weights
from skyreels_jax.models.umt5.modeling import UMT5Encoder
from skyreels_jax.models.vae import config as vae_config
from skyreels_jax.models.vae import weights as vae_weights
from skyreels_jax.models.vae.modeling import AutoencoderKLWan
from skyreels_jax.weights.table import Table


@dataclasses.dataclass(frozen=True, kw_only=True)
class Kind:
    """One sort of component: how its files are named and what they become.

    header: the entries of its config.json that name the architecture.
    hints: entries that are written for other readers, and not read.
    official: its weight file in an official folder ("": the folder itself).
    """

    config: type
    ignored: frozenset[str]
    model: Callable[..., nnx.Module]
    diffusers_table: Callable[[Any], Table]
    official_table: Callable[[Any], Table]
    header: dict[str, Any]
    hints: dict[str, Any]
    basename: str
    official: str


KINDS = {
    "vae": Kind(
        config=vae_config.VAEConfig,
        ignored=frozenset(vae_config.IGNORED_FIELDS),
        model=AutoencoderKLWan,
        diffusers_table=vae_weights.diffusers_table,
        official_table=vae_weights.official_table,
        header={"_class_name": "AutoencoderKLWan"},
        hints={},
        basename="diffusion_pytorch_model",
        official="Wan2.1_VAE.pth",
    ),
    "text_encoder": Kind(
        config=umt5_config.UMT5Config,
        ignored=umt5_config.IGNORED,
        model=UMT5Encoder,
        diffusers_table=umt5_weights.diffusers_table,
        official_table=umt5_weights.official_table,
        header={"architectures": ["UMT5EncoderModel"], "model_type": "umt5"},
        # Else transformers computes in the stored type, and diffusers the rest in float32.
        hints={"dtype": "float32"},
        basename="model",
        official="models_t5_umt5-xxl-enc-bf16.pth",
    ),
    "transformer": Kind(
        config=dit_config.DiTConfig,
        ignored=frozenset(),
        model=SkyReelsV2Transformer3D,
        diffusers_table=dit_weights.diffusers_table,
        official_table=dit_weights.official_table,
        header={"_class_name": "SkyReelsV2Transformer3DModel"},
        hints={},
        basename="diffusion_pytorch_model",
        official="",
    ),
    "image_encoder": Kind(
        config=clip_config.CLIPVisionConfig,
        ignored=clip_config.IGNORED,
        model=CLIPVisionEncoder,
        diffusers_table=clip_weights.diffusers_table,
        official_table=clip_weights.official_table,
        header={"model_type": "clip_vision_model"},
        hints={"dtype": "float32"},
        basename="model",
        official="models_clip_open-clip-xlm-roberta-large-vit-huge-14.pth",
    ),
}
TEXT_PARTS = ("vae", "text_encoder", "transformer")
IMAGE_PARTS = (*TEXT_PARTS, "image_encoder")
TRAINED = ("transformer", "text_encoder")  # what text-to-video runs train, and checkpoints hold


_FLOAT32 = re.compile(
    r"(.*/)?((head_)?modulation|norm\w*/(scale|bias)|(time_embedder|time_proj|fps_embedder)/.*)"
)


def in_float32(path: str) -> bool:
    """Returns whether the parameter of transformer or text encoder at `path` is one of those that
    stay float32 where others are bfloat16: small ones, of what is computed in float32.
    """
    return _FLOAT32.fullmatch(path) is not None


def as_loaded(shapes: Params, dtype: Any) -> Params:
    """Returns the shapes of parameters with the types that they have in a model that was loaded in
    `dtype`.
    """

    def one(path: tuple, leaf: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(
            leaf.shape, jnp.float32 if in_float32(path_name(path)) else dtype
        )

    return jax.tree_util.tree_map_with_path(one, shapes)


def abstract_model(name: str, config: Any) -> tuple[nnx.GraphDef, Params]:
    """Returns structure and parameter shapes of component `name` ("vae", ...); takes no memory."""
    graphdef, params = _abstract_model(name, config)
    return graphdef, jax.tree.map(lambda leaf: leaf, params)  # a tree of the caller's own


class _NoKeys(nnx.Rngs):
    """Random streams of a model of which shapes alone are asked for: to trace what is drawn would
    take most of the time.
    """

    def __init__(self):
        pass

    def params(self) -> None:
        return None


@functools.cache  # even so it takes a while, and every loading asks
def _abstract_model(name: str, config: Any) -> tuple[nnx.GraphDef, Params]:
    model = nnx.eval_shape(lambda: KINDS[name].model(config, rngs=_NoKeys()))
    graphdef, state = nnx.split(model)
    return graphdef, nnx.to_pure_dict(state)
