"""Attention kernels for NVIDIA Hopper GPUs (Mosaic GPU)."""
