"""Taking the embedding of frame rates out of a trained transformer.

SkyReels-V2 is pretrained with it on clips of 16 and 24 frames a second and goes on without it, on
24 frames a second only, from the first fine-tuning (facts, sections 3 and 6).
"""

import jax
import jax.numpy as jnp
from flax import nnx

from skyreels_jax.core.types import Params
from skyreels_jax.models.dit.modeling import FPSEmbedding

NAME = "fps_embedder"


def tells_fps(params: Params) -> bool:
    """Returns whether these are parameters of a transformer with `inject_sample_info`."""
    return NAME in params


def without_fps(params: Params) -> Params:
    """Returns the parameters but for the embedding."""
    return {name: value for name, value in params.items() if name != NAME}


def fold_fps(params: Params, fps: int) -> Params:
    """Returns the parameters of the same transformer without `inject_sample_info`.

    What the embedding adds to every modulation is one constant for one frame rate. It becomes part
    of the bias of `time_proj`, which makes all modulations and nothing else: at `fps` frames a
    second the function is the same, and training goes on from there.
    """
    rest = without_fps(params)
    width = params[NAME]["embedding"].shape[1]
    graphdef, _ = nnx.split(nnx.eval_shape(lambda: FPSEmbedding(width, rngs=nnx.Rngs(0))))
    embed = nnx.merge(graphdef, jax.tree.map(jnp.asarray, params[NAME]))
    added = embed(jnp.array([fps], jnp.int32)).reshape(-1)
    bias = jnp.asarray(rest["time_proj"]["bias"])
    rest["time_proj"] = {**rest["time_proj"], "bias": bias + added.astype(bias.dtype)}
    return rest
