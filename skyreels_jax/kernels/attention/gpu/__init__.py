"""Attention on NVIDIA Hopper GPUs in Pallas (Mosaic GPU): the kernels behind `pallas_gpu`."""
