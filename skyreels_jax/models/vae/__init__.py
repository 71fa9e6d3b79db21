"""The causal video VAE of the Wan family (`AutoencoderKLWan`)."""

from skyreels_jax.models.vae.config import VAEConfig as VAEConfig
from skyreels_jax.models.vae.modeling import AutoencoderKLWan as AutoencoderKLWan
