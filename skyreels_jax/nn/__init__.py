"""Layers shared by the models: linear, norm, rope, convolution, stacked blocks."""
