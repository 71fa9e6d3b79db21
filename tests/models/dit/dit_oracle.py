"""diffusers' transformer with random weights, and ours filled from it through the name table."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from diffusers import SkyReelsV2Transformer3DModel
from flax import nnx

from skyreels_jax.core.types import Params
from skyreels_jax.models.dit import DiTConfig, SkyReelsV2Transformer3D
from skyreels_jax.models.dit.weights import diffusers_table
from skyreels_jax.testing.stored import DictSource
from skyreels_jax.weights.convert import load_tree

SMALL = DiTConfig(
    num_attention_heads=2,
    attention_head_dim=20,  # splits into 8 + 6 + 6
    in_channels=4,
    out_channels=3,
    text_dim=24,
    freq_dim=32,
    ffn_dim=48,
    num_layers=2,
)


def torch_model(config: DiTConfig, *, seed: int = 0) -> SkyReelsV2Transformer3DModel:
    """Returns diffusers' model; all parameters random, norms near one, matrices of unit gain."""
    model = SkyReelsV2Transformer3DModel(**vars(config)).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in model.named_parameters():
            noise = torch.randn(p.shape, generator=generator)
            if "norm" in name and name.endswith("weight"):
                p.copy_(1 + 0.2 * noise)
            elif p.ndim in (2, 5):
                p.copy_(noise * (p[0].numel() ** -0.5))
            else:
                p.copy_(0.2 * noise)
    return model


def abstract(config: DiTConfig) -> tuple[nnx.GraphDef, Params]:
    """Returns the structure of our model and the shapes of its parameters."""
    model = nnx.eval_shape(lambda: SkyReelsV2Transformer3D(config, rngs=nnx.Rngs(0)))
    graphdef, state = nnx.split(model)
    return graphdef, nnx.to_pure_dict(state)


def parameters(config: DiTConfig, tensors: dict[str, torch.Tensor]) -> Params:
    """Returns our parameter tree made of diffusers tensors."""
    arrays = {name: np.asarray(tensor.detach()) for name, tensor in tensors.items()}
    return load_tree(diffusers_table(config), DictSource(arrays), abstract(config)[1])


def pair(config: DiTConfig) -> tuple[SkyReelsV2Transformer3DModel, SkyReelsV2Transformer3D]:
    """Returns diffusers' model and ours with the same weights."""
    theirs = torch_model(config)
    return theirs, nnx.merge(abstract(config)[0], parameters(config, theirs.state_dict()))


def run(module: nnx.Module, *args: Any, static: dict | None = None, **kwargs: Any) -> Any:
    """Returns `module(*args, **kwargs, **static)`, compiled whole (cheaper than op by op)."""
    graphdef, state = nnx.split(module)

    def call(state, args, kwargs):
        return nnx.merge(graphdef, state)(*args, **kwargs, **(static or {}))

    return jax.jit(call)(state, args, kwargs)


def torch_video(latents) -> torch.Tensor:
    """[B, T, H, W, C] to torch's [B, C, T, H, W]."""
    return torch.tensor(np.asarray(latents)).permute(0, 4, 1, 2, 3).contiguous()


def jax_video(video: torch.Tensor) -> jnp.ndarray:
    """torch's [B, C, T, H, W] to [B, T, H, W, C]."""
    return jnp.asarray(video.detach().permute(0, 2, 3, 4, 1).numpy())


def relative_error(ours, theirs) -> float:
    """Returns max |ours - theirs| / max |theirs|."""
    ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    assert ours.shape == theirs.shape
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())
