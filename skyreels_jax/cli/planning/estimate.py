"""How long a step would take: operations by formula, exchanges over links, and what is assumed."""

import dataclasses
import math
from collections.abc import Sequence

from skyreels_jax.cli.planning.chips import Chip
from skyreels_jax.cli.planning.collectives import Collective
from skyreels_jax.data.buckets import Bucket
from skyreels_jax.models.dit.config import DiTConfig
from skyreels_jax.models.dit.flops import attention_flops, forward_flops
from skyreels_jax.parallel.mesh import BATCH

# Shares of a device's peak. Matrix products of this size reach it by experience; attention forward
# is its operations by the bundles of our kernel's final schedule, no more than products reach
# (docs/scaling.md).
PRODUCTS = 0.85
ATTENTION = {"TPU v5 lite": 0.85, "TPU v5": 0.85, "TPU v6 lite": 0.61, "TPU7x": 0.63}
# Of convolutions of 96 to 384 channels, assumed.
CONVOLUTIONS = 0.4
# Bundles of attention's backward pass, in two kernels with 7 products, by those of its forward with
# two: 3.7 to 3.9.
BACKWARD = 3.8
PASSES = 24  # times that a block's forward pass reads or writes all tokens in bfloat16
HOST = 16e9  # bytes a second from a device to its host or back: of v4 in "How to Scale Your Model"
# Behind products, among devices that have clips of their own: there these are of weights and their
# gradients. Elsewhere they are of activations, for which what follows waits.
OVERLAPPED = ("all-gather", "reduce-scatter", "all-reduce")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Estimate:
    """Seconds a step, by what takes them; `needed`: operations that the model needs a step, of all
    devices together (what is computed again does not count).
    """

    products: float
    attention: float
    memory: float
    exposed: float
    hidden: float
    needed: float
    seconds: float
    mfu: float
    assumptions: tuple[str, ...]


def estimate(
    config: DiTConfig,
    bucket: Bucket,
    exchanges: Sequence[Collective],
    *,
    chip: Chip,
    devices: int,
    clips: int,
    text: int,
    remat: str = "none",
    train: bool,
) -> Estimate:
    """Returns how long one step on `clips` clips would take.

    train: forward and backward; else forward alone.
    """
    grid = (bucket.latents[0], *(side // 2 for side in bucket.latents[1:]))
    forward = clips * forward_flops(config, grid, text=text)
    attention = clips * config.num_layers * attention_flops(config, grid, text=text)
    again = remat != "none"
    factor = 3 + again if train else 1
    redone = again and remat != "attention"
    attended = 1 + redone + BACKWARD if train else 1
    speed = chip.flops * devices
    products = factor * (forward - attention) / (speed * PRODUCTS)
    attending = attended * attention / (speed * ATTENTION[chip.kind])
    bytes_ = clips * bucket.tokens * config.width * 2 * PASSES * config.num_layers * factor
    memory = bytes_ / (chip.bandwidth * devices)
    compute = products + attending + memory
    times = {False: 0.0, True: 0.0}
    for one in exchanges:
        behind = one.kind in OVERLAPPED and set(one.axes) <= set(BATCH)
        times[behind] += one.seconds(chip.link)
    exposed = times[False] + max(times[True] - compute, 0.0)
    offloads = train and remat == "offload"
    if offloads:  # the inputs of all blocks, there and back
        exposed += 2 * clips * bucket.tokens * config.width * 2 * config.num_layers / devices / HOST
    seconds = compute + exposed
    needed = (3.0 if train else 1.0) * forward
    return Estimate(
        products=products,
        attention=attending,
        memory=memory,
        exposed=exposed,
        hidden=min(times[True], compute),
        needed=needed,
        seconds=seconds,
        mfu=needed / (seconds * speed),
        assumptions=(
            f"products reach {PRODUCTS:.0%} of {chip.flops / 1e12:.0f} TFLOP/s",
            f"attention reaches {ATTENTION[chip.kind]:.0%} of that"
            + (f", its backward pass costs {BACKWARD} times the forward" if train else ""),
            f"a block reads or writes all tokens {PASSES} times forward, at "
            f"{chip.bandwidth / 1e12:.2f} TB/s",
            f"every axis of the mesh is a ring of its own with {chip.link / 1e9:.0f} GB/s to both "
            "sides",
            "gathering, scattering and adding up along data and fsdp, of weights and gradients, "
            "hides behind products; no other exchange does",
            *[f"offloading reaches {HOST / 1e9:.0f} GB/s, and nothing hides it"] * offloads,
        ),
    )


def estimate_decode(
    exchanges: Sequence[Collective], *, chip: Chip, devices: int, operations: float, bytes_: float
) -> Estimate:
    """Returns how long a program of convolutions without loops would take.

    operations, bytes_: of one device, by the compiler's count.
    """
    products = operations / (chip.flops * CONVOLUTIONS)
    memory = bytes_ / chip.bandwidth
    exposed = sum(one.seconds(chip.link) for one in exchanges)
    seconds = products + memory + exposed
    return Estimate(
        products=products,
        attention=0.0,
        memory=memory,
        exposed=exposed,
        hidden=0.0,
        needed=operations * devices,
        seconds=seconds,
        mfu=operations / (seconds * chip.flops),
        assumptions=(
            "operations and bytes are the compiler's own count, of a program without loops; none "
            "of them hides behind another",
            f"convolutions reach {CONVOLUTIONS:.0%} of {chip.flops / 1e12:.0f} TFLOP/s (bfloat16 "
            "passes, jax's default for float32)",
            f"{chip.bandwidth / 1e12:.2f} TB/s of memory, links of {chip.link / 1e9:.0f} GB/s",
        ),
    )


def trips(exchanges: Sequence[Collective]) -> dict[str, dict[str, int]]:
    """Returns how many exchanges of each kind there are a step, and the bytes of all of them."""
    found: dict[str, dict[str, int]] = {}
    for one in exchanges:
        row = found.setdefault(one.kind, {"count": 0, "bytes": 0})
        row["count"] += one.count
        row["bytes"] += one.count * one.size
    return found


def rounded(value: float, digits: int = 3) -> float:
    """Returns `value` with `digits` significant digits."""
    if not value or not math.isfinite(value):
        return value
    return round(value, digits - 1 - math.floor(math.log10(abs(value))))
