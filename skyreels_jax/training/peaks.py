"""What devices can do at most, for the share of it that a step uses (MFU)."""

# bfloat16 products a second of one jax device, dense; by the beginning of `Device.device_kind`. The
# vendors' figures; of TPU7x half a chip, which is one device.
PEAKS = {
    "NVIDIA H100 PCIe": 756e12,
    "NVIDIA H100": 989e12,
    "NVIDIA H200": 989e12,
    "NVIDIA A100": 312e12,
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5p": 459e12,
    "TPU v5": 459e12,
    "TPU v6": 918e12,
    "TPU7": 1153e12,
}


def peak(kind: str) -> float | None:
    """Returns the peak of a kind of device; None where it is not known (CPUs)."""
    return next((value for name, value in PEAKS.items() if kind.startswith(name)), None)
