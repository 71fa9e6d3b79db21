"""What this process runs on, as far as kernels ask: they refuse chips that they do not know.

Both are None where there is no such device, as in a process that compiles for one elsewhere: there
nothing is refused.
"""

import jax


def tpu_kind() -> str | None:
    """Returns the kind of this process's TPUs, as "TPU v6 lite"."""
    device = jax.devices()[0]
    return device.device_kind if device.platform == "tpu" else None


def gpu_capability() -> str | None:
    """Returns the compute capability of this process's GPUs, as "9.0"; not a number on AMD's."""
    device = jax.devices()[0]
    return device.compute_capability if device.platform == "gpu" else None
