"""CLIP ViT-H/14 vision encoder: configuration, model, weight tables, image preprocessing."""
