"""Attention on TPUs in Pallas: the kernels behind `pallas_tpu`."""
