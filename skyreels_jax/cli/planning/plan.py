"""A plan: one program of a run on a topology, whether it fits, and what it would take."""

import dataclasses
import math
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax

from skyreels_jax.cli.planning import programs
from skyreels_jax.cli.planning.chips import GIB, Chip
from skyreels_jax.cli.planning.collectives import Collective, collectives
from skyreels_jax.cli.planning.estimate import (
    Estimate,
    estimate,
    estimate_decode,
    rounded,
    trips,
)
from skyreels_jax.cli.planning.programs import Program
from skyreels_jax.cli.recipes.base import Recipe
from skyreels_jax.core.errors import UserError
from skyreels_jax.core.tree import count_parameters
from skyreels_jax.core.types import Params
from skyreels_jax.data.buckets import Bucket, buckets
from skyreels_jax.models.vae.config import VAEConfig
from skyreels_jax.nn.stack import REMAT
from skyreels_jax.parallel.mesh import MeshConfig, make_mesh
from skyreels_jax.parallel.placement import Placement
from skyreels_jax.training.config import TrainConfig

# How the compiler says that a program does not fit: of all that it holds, or of temporaries alone.
FULL = re.compile(r"Used ([\d.]+)G of ([\d.]+)G hbm")
TEMPORARIES = re.compile(r"temporaries \(([\d.]+)G\) exceeds available HBM \(([\d.]+)G\)")


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Plan:
    """work: what the program does, in words. Bytes are of one device. Without `estimated` the
    program did not fit, and `peak` is what it would have used. advice: what would take less.
    host: of its host's memory, what is offloaded.
    """

    mesh: MeshConfig
    bucket: Bucket
    work: str
    devices: int
    parameters: int
    state: dict[str, int]
    peak: int
    limit: int
    advice: tuple[str, ...]
    temporary: int | None = None
    host: int | None = None
    exchanged: dict[str, dict[str, int]] | None = None
    estimated: Estimate | None = None
    compile_seconds: float | None = None

    @property
    def fits(self) -> bool:
        return self.estimated is not None and self.peak <= self.limit

    def values(self) -> dict[str, Any]:
        """Returns everything, json-ready."""
        told = dataclasses.asdict(self)
        return told | {"bucket": str(self.bucket), "fits": self.fits}

    def text(self, topology: str) -> str:
        """Returns it for people."""
        lines = [
            f"{topology}: {self.devices} devices as {self.mesh} ({self.mesh.attention})",
            self.work,
            f"{self.parameters / 1e9:.2f} billion parameters",
            "",
            *(f"{name:<16}{size / GIB:8.2f} GiB a device" for name, size in self.state.items()),
        ]
        if self.temporary is not None:
            lines.append(f"{'temporary':<16}{self.temporary / GIB:8.2f} GiB")
        lines.append(f"{'peak':<16}{self.peak / GIB:8.2f} of {self.limit / GIB:.0f} GiB")
        if self.host:
            lines.append(f"{'on the host':<16}{self.host / GIB:8.2f} GiB a device")
        if not self.fits:
            over = (self.peak - self.limit) / GIB
            told = f"does not fit, by {over:.1f} GiB; what would help: {', '.join(self.advice)}"
            return "\n".join([*lines, "", told])
        lines.append("")
        for kind, row in self.exchanged.items():
            lines.append(f"{kind:<20}{row['count']:>8,} times{row['bytes'] / GIB:>10.2f} GiB")
        made = self.estimated
        parts = ("products", "attention", "memory", "exposed", "hidden")
        lines += ["", *(f"{name:<16}{getattr(made, name):10.3g} s" for name in parts)]
        lines.append(f"{'operations':<16}{made.needed / 1e15:10.3g} PFLOP, of all devices")
        lines.append(f"{'a step':<16}{made.seconds:10.3g} s, an MFU of {made.mfu:.1%}")
        lines += ["", "assumed:", *(f"  {line}" for line in made.assumptions)]
        lines.append(f"compiled in {self.compile_seconds:.0f} s")
        return "\n".join(lines)


def check(config: TrainConfig, stage: int) -> None:
    """Raises `UserError` for configs and stages that cannot be planned."""
    if config.kind != "text_to_video" or config.model.text_encoder is not None:
        raise UserError(
            "plan: legal are configs of kind text_to_video without model.text_encoder, which read "
            "data.features (configs/film)"
        )
    if not -len(config.stages) <= stage < len(config.stages):
        raise UserError(f"--stage {stage}: the config has stages 0 to {len(config.stages) - 1}")
    if config.lora is not None:
        raise UserError("plan: the estimate knows no adapters; leave lora out")
    if config.mesh is None:
        raise UserError("plan: the config has no mesh; --set mesh.fsdp=-1 divides weights alone")


def plan(
    recipe: Recipe,
    config: TrainConfig,
    chip: Chip,
    devices: Sequence[jax.Device],
    *,
    step: str,
    stage: int,
) -> Plan:
    """Compiles a `step` ("train", "sample" or "decode") on a stage's largest clips for `devices`.

    Raises `UserError` where the mesh does not fit devices, heads, clips, tokens or weights.
    """
    mesh = config.mesh.sized(len(devices))
    placement = Placement(mesh=make_mesh(mesh, devices), rules=recipe.rules(config))
    said = config.stages[stage]
    bucket = buckets(said.resolution, said.frames)[-1]
    if step == "decode":
        case = _decode(chip, placement, bucket)
    else:
        case = _evaluate(recipe, config, chip, placement, bucket, batch=said.batch, step=step)
    about = {"mesh": mesh, "bucket": bucket, "devices": len(devices), "limit": chip.memory}
    about |= {"advice": advice(config, placement, batch=said.batch, step=step)}
    about |= {"work": case.work, "parameters": count_parameters(case.weights), "state": case.state}
    try:
        program = case.compile()
    except jax.errors.JaxRuntimeError as error:
        held = 0
        if (full := FULL.search(str(error))) is None:
            if (full := TEMPORARIES.search(str(error))) is None:
                raise
            held = sum(case.state.values())
        used, limit = (int(float(value) * GIB) for value in full.groups())
        return Plan(**{**about, "peak": held + used, "limit": limit})
    exchanges = collectives(program.compiled.as_text(), placement.mesh.shape)
    memory = program.memory
    return Plan(
        **about,
        peak=memory["peak"],
        temporary=memory["temporary"],
        host=memory["host"],
        exchanged=trips(exchanges),
        estimated=case.estimate(program, exchanges),
        compile_seconds=rounded(program.seconds),
    )


def advice(config: TrainConfig, placement: Placement, *, batch: int, step: str) -> tuple[str, ...]:
    """Returns what would take less memory than a step of `config` on `batch` clips."""
    if step != "train":
        return ("more devices in context or tensor", "a smaller resolution")
    twice = 2 * config.accumulate
    divides = batch % (twice * placement.devices("data", "fsdp")) == 0
    ways = [f"accumulate {twice}"] if divides else []
    ways += [f"remat {remat}" for remat in REMAT[REMAT.index(config.remat) + 1 :]]
    return (*ways, "more devices in fsdp or context", "a smaller resolution")


class _Case(NamedTuple):
    """What differs from step to step."""

    work: str
    weights: Params
    state: dict[str, int]
    compile: Callable[[], Program]
    estimate: Callable[[Program, Sequence[Collective]], Estimate]


def _evaluate(
    recipe: Recipe,
    config: TrainConfig,
    chip: Chip,
    placement: Placement,
    bucket: Bucket,
    *,
    batch: int,
    step: str,
) -> _Case:
    """Returns the case of a step of training on `batch` clips, or of one of sampling."""
    train = step == "train"
    clips = batch if train else placement.devices("data", "fsdp") // 2 or 1
    remat = config.remat if train else "none"
    if train:
        placement.rows(batch // config.accumulate)
        training = programs.abstract_training(recipe, config, placement)
        weights = training.state.params
        held = share((training.state.opt_state, training.state.ema))
        state = {"parameters": share(weights), "optimizer, EMA": held}
    else:
        weights = programs.abstract_params(recipe, config, placement)
        state = {"parameters": share(weights)}

    def compiled() -> Program:
        if train:
            return programs.train_program(training, config, placement, bucket, clips=clips)
        return programs.sample_program(recipe, config, placement, bucket, clips=clips)

    def estimated(program: Program, exchanges: Sequence[Collective]) -> Estimate:
        return estimate(
            config.model.transformer,
            bucket,
            exchanges,
            chip=chip,
            devices=placement.mesh.size,
            clips=clips if train else 2 * clips,
            text=programs.TEXT,
            remat=remat,
            train=train,
        )

    return _Case(
        work=f"{clips} clips of {bucket} ({bucket.tokens:,} tokens each), remat {remat}",
        weights=weights,
        state=state,
        compile=compiled,
        estimate=estimated,
    )


def _decode(chip: Chip, placement: Placement, bucket: Bucket) -> _Case:
    """Returns the case of decoding by the VAE of SkyReels-V2, whatever the config's transformer."""
    vae = VAEConfig()
    weights = programs.abstract_vae(vae, placement)[1]

    def estimated(program: Program, exchanges: Sequence[Collective]) -> Estimate:
        told = program.compiled.cost_analysis()
        return estimate_decode(
            exchanges,
            chip=chip,
            devices=placement.mesh.size,
            operations=told["flops"],
            bytes_=told["bytes accessed"],
        )

    return _Case(
        work=f"one of the {bucket.latents[0]} latent frames of {bucket}, decoded into four frames",
        weights=weights,
        state={"parameters": share(weights)},
        compile=lambda: programs.decode_program(vae, placement, bucket),
        estimate=estimated,
    )


def share(tree: Any) -> int:
    """Returns the bytes of a device's part of `tree` (abstract arrays, placed)."""
    leaves = jax.tree.leaves(tree)
    return sum(x.dtype.itemsize * math.prod(x.sharding.shard_shape(x.shape)) for x in leaves)
