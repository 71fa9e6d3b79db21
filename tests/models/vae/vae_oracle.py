"""diffusers' VAE with random weights, and ours filled from it through the name table."""

import jax
import jax.numpy as jnp
import numpy as np
import torch
from diffusers import AutoencoderKLWan as TorchVAE
from flax import nnx

from skyreels_jax.core.config import to_dict
from skyreels_jax.core.types import Params
from skyreels_jax.models.vae import AutoencoderKLWan, VAEConfig
from skyreels_jax.models.vae.weights import diffusers_table
from skyreels_jax.testing.stored import DictSource
from skyreels_jax.weights.convert import load_tree

STATISTICS = np.random.default_rng(5)


def config(**fields) -> VAEConfig:
    """Returns a small configuration with random latent statistics; `fields` replace its own."""
    fields = {"base_dim": 4, "z_dim": 4, "dim_mult": (1, 2, 2, 3), "num_res_blocks": 1} | fields
    z = fields["z_dim"]
    free = {"scale_factor_temporal": None, "scale_factor_spatial": None}
    return VAEConfig(
        **{
            "latents_mean": tuple(STATISTICS.normal(size=z).tolist()),
            "latents_std": tuple(STATISTICS.uniform(0.5, 3, size=z).tolist()),
            **free,
            **fields,
        }
    )


# Wan 2.2's structure: residual stages, pixels folded into channels, a decoder of its own width.
RESIDUAL = {
    "is_residual": True,
    "patch_size": 2,
    "in_channels": 12,
    "out_channels": 12,
    "decoder_base_dim": 6,
    "dim_mult": (1, 2, 4, 4),
}


def torch_vae(config: VAEConfig, *, seed: int = 0) -> TorchVAE:
    """Returns diffusers' model; all parameters random, norms near one, kernels of unit gain."""
    model = TorchVAE(**to_dict(config)).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in model.named_parameters():
            noise = torch.randn(p.shape, generator=generator)
            if name.endswith("gamma"):
                p.copy_(1 + 0.2 * noise)
            elif name.endswith("weight"):
                p.copy_(noise * p[0].numel() ** -0.5)
            else:
                p.copy_(0.2 * noise)
        model.decoder.conv_out.weight.mul_(0.3)  # keeps most pixels inside the clipping range
    return model


def abstract(config: VAEConfig) -> tuple[nnx.GraphDef, Params]:
    """Returns the structure of our model and the shapes of its parameters."""
    graphdef, state = nnx.split(nnx.eval_shape(lambda: AutoencoderKLWan(config, rngs=nnx.Rngs(0))))
    return graphdef, nnx.to_pure_dict(state)


def pair(config: VAEConfig) -> tuple[TorchVAE, nnx.GraphDef, Params]:
    """Returns diffusers' model, and structure and parameters of ours with the same weights."""
    theirs = torch_vae(config)
    arrays = {name: tensor.numpy() for name, tensor in theirs.state_dict().items()}
    graphdef, shapes = abstract(config)
    return theirs, graphdef, load_tree(diffusers_table(config), DictSource(arrays), shapes)


def call(graphdef: nnx.GraphDef, method: str):
    """Returns the jitted `method(params, ...)` of our model."""
    return jax.jit(lambda params, *inputs: getattr(nnx.merge(graphdef, params), method)(*inputs))


def torch_video(video) -> torch.Tensor:
    """[B, T, H, W, C] to torch's [B, C, T, H, W]."""
    return torch.tensor(np.asarray(video)).permute(0, 4, 1, 2, 3).contiguous()


def jax_video(video: torch.Tensor) -> jnp.ndarray:
    """torch's [B, C, T, H, W] to [B, T, H, W, C]."""
    return jnp.asarray(video.detach().permute(0, 2, 3, 4, 1).numpy())


def relative_error(ours, theirs) -> float:
    """Returns max |ours - theirs| / max |theirs|."""
    ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    assert ours.shape == theirs.shape
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


def random_video(*shape: int) -> jax.Array:
    """Returns uniform values in [-1, 1]."""
    return jnp.asarray(np.random.default_rng(1).uniform(-1, 1, shape), jnp.float32)
