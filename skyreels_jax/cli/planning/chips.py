"""TPUs to plan for: what one device of a topology can do, and its devices without having it."""

import dataclasses
import math
import os
import re
from collections.abc import Sequence

import jax

from skyreels_jax.core.config import suggest
from skyreels_jax.core.errors import UserError
from skyreels_jax.training.peaks import peak

GIB = 2**30


@dataclasses.dataclass(frozen=True, kw_only=True)
class Chip:
    """One jax device. Figures are the vendor's (cloud.google.com/tpu/docs) and, for links, those of
    "How to Scale Your Model" (jax-ml.github.io/scaling-book): per direction and torus axis.

    memory, bandwidth: bytes and bytes a second of its high-bandwidth memory; link: bytes a second
    to a neighbour; kind: as jax names it. axes: of the torus; most: chips that one has.
    """

    kind: str
    memory: int
    bandwidth: float
    link: float
    axes: int
    most: int

    @property
    def flops(self) -> float:
        """bfloat16 operations a second, at most."""
        return peak(self.kind)


FLAT = {"axes": 2, "most": 256}
CHIPS = {
    "v5e": Chip(kind="TPU v5 lite", memory=16 * GIB, bandwidth=0.82e12, link=45e9, **FLAT),
    "v5p": Chip(kind="TPU v5", memory=95 * GIB, bandwidth=2.77e12, link=90e9, axes=3, most=8960),
    "v6e": Chip(kind="TPU v6 lite", memory=32 * GIB, bandwidth=1.64e12, link=90e9, **FLAT),
    "tpu7x": Chip(kind="TPU7x", memory=96 * GIB, bandwidth=3.69e12, link=90e9, axes=3, most=9216),
}
EXAMPLES = ("v5e:16x16", "v5p:4x4x8", "v6e:16x16", "tpu7x:4x4x4")


def topology(name: str) -> tuple[Chip, Sequence[jax.Device]]:
    """Returns what one device of the topology `name` is, such as "v5p:4x4x8", and its devices, to
    compile for. Has to come before jax is asked for any device.

    Raises `UserError` for names that do not exist and where the TPU compiler is not installed.
    """
    chip, _, shape = name.partition(":")
    if chip not in CHIPS:
        raise UserError(f"--topology {name}: no TPU is called {chip!r}{suggest(chip, CHIPS)}")
    sizes = [int(size) for size in re.findall(r"\d+", shape)]
    if not re.fullmatch(r"\d+(x\d+){1,2}", shape):
        raise UserError(f"--topology {name}: legal are {', '.join(EXAMPLES)} and the like")
    # The compiler takes these, too.
    if len(sizes) != CHIPS[chip].axes or not 1 <= math.prod(sizes) <= CHIPS[chip].most:
        raise UserError(
            f"--topology {name}: {chip} has {CHIPS[chip].axes} axes and up to "
            f"{CHIPS[chip].most:,} chips; legal are {', '.join(EXAMPLES)} and the like"
        )
    # libtpu would ask the network which machine this is, and wait for the answer; left untold, it
    # complains on standard error. What it is told changes nothing in the devices it describes.
    os.environ["TPU_SKIP_MDS_QUERY"] = "1"
    os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
    os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v5p-8")
    os.environ.setdefault("TPU_LOG_DIR", "disabled")
    # Its lock is for those who use a TPU: plans may be made side by side.
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    jax.config.update("jax_platforms", "cpu")
    from jax.experimental import topologies

    try:
        found = topologies.get_topology_desc(name, platform="tpu")
    except Exception as error:  # the plugin raises whatever it likes
        said = str(error).strip().splitlines()[0]
        if "libtpu" in said or "not installed" in said or isinstance(error, ImportError):
            raise UserError(
                f"the TPU compiler is not installed ({said}): pip install 'skyreels-jax[tpu]'"
            ) from error
        raise UserError(
            f"--topology {name} does not exist ({said}); legal are {', '.join(EXAMPLES)} "
            "and the like"
        ) from error
    return CHIPS[chip], found.devices
