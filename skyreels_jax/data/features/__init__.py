"""Clips as the transformer is trained on them: latents and text states, made ahead, on disk."""
