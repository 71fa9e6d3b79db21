"""Data sets, latents on disk, and the loaders that feed training."""
