"""Plans: which latent frame makes its steps when, and which frames are given.

One rule covers every task (SkyReels-V2, arXiv 2504.13074, section on diffusion forcing; the AD
scheduler of AR-Diffusion): blocks of `causal_block_size` frames make `inference_steps` steps each,
and a block starts `ar_step` rows after the one before it, or when that one is done. 0 is
synchronous, `inference_steps` (or more) autoregressive, anything between asynchronous. Frames that
are given - the end of an earlier film, a first image, a last image - never move.
"""

import dataclasses
import math

import numpy as np
from jaxtyping import Float, Int

from skyreels_jax.core.errors import UserError
from skyreels_jax.diffusion.flow import TIMESTEPS
from skyreels_jax.diffusion.grids import (
    Schedule,
    TimeGrid,
    flow_sigmas,
    from_sigmas,
    whole_timesteps,
)

WAITING = 999.0  # what both peers tell the model about a frame that has not started


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """One run of the sampler in latent frames and steps; checked when made, before any model.

    latent_frames: T, given frames included.
    level: the noise level at which frames start, for those that are not made from noise alone;
      below 1 a frame makes fewer than `inference_steps` steps.
    prefix, suffix: how many frames at the start and at the end are given and clean. A prefix may
      end inside a block: the rest of the block is made around it, and nothing is cut off.
    base: how many frames the model sees at once; None, or T and more, for all. A longer film
      passes under this window, which moves when the next block starts.
    addnoise_condition: the model sees the prefix with this much noise (of 1000), fresh in each
      row, and is told so; the prefix itself stays clean.
    Raises `UserError` for what cannot be planned, with the nearest legal values.
    """

    latent_frames: int
    inference_steps: int
    shift: float = 1.0
    schedule: Schedule = "diffusers"
    level: float = 1.0
    ar_step: int = 0
    causal_block_size: int = 1
    prefix: int = 0
    suffix: int = 0
    base: int | None = None
    addnoise_condition: float = 0.0

    def __post_init__(self):
        _ = self.path
        _check("latent_frames", self.latent_frames, 1)
        _check("ar_step", self.ar_step, 0)
        _check("causal_block_size", self.causal_block_size, 1)
        _check("suffix", self.suffix, 0, self.latent_frames - 1)
        _check("prefix", self.prefix, 0, self.latent_frames - self.suffix - 1)
        _check("addnoise_condition", self.addnoise_condition, 0, WAITING)
        self._check_blocks()
        if self.visible < self.latent_frames:
            self._check_window()

    @property
    def path(self) -> Float[np.ndarray, " steps_plus_1"]:
        """The noise levels that every made frame goes through, the last one 0."""
        return flow_sigmas(
            self.inference_steps, shift=self.shift, schedule=self.schedule, level=self.level
        )

    @property
    def steps(self) -> int:
        """How many steps every made frame makes."""
        return len(self.path) - 1

    @property
    def visible(self) -> int:
        """How many frames the model sees at once."""
        return self.latent_frames if self.base is None else min(self.base, self.latent_frames)

    @property
    def new_blocks(self) -> int:
        """How many blocks hold frames to be made."""
        size = self.causal_block_size
        return (self.latent_frames - self.suffix) // size - self.prefix // size

    @property
    def lag(self) -> int:
        """How many rows a block starts after the one before it."""
        return min(self.ar_step, self.steps)

    @property
    def rows(self) -> int:
        """How many times the model is asked for a velocity."""
        return self.steps + (self.new_blocks - 1) * self.lag

    def _check_blocks(self) -> None:
        size, made = self.causal_block_size, self.latent_frames - self.suffix
        if made % size == 0:
            return
        below = made // size * size
        near = [str(n + self.suffix) for n in (below, below + size) if n > self.prefix]
        raise UserError(
            f"latent_frames {self.latent_frames} is not a multiple of causal_block_size {size}"
            f"{f' and {self.suffix} for the suffix' if self.suffix else ''}; "
            f"nearest legal: {' or '.join(near)}"
        )

    def _check_window(self) -> None:
        size, base = self.causal_block_size, self.visible
        if self.suffix:
            raise UserError(
                f"a suffix is out of sight until the window of base {base} reaches it; "
                f"legal: no suffix, or base {self.latent_frames} and more"
            )
        blocks = max(base // size, 0)
        if base < size or base % size:
            near = [str(n * size) for n in (blocks, blocks + 1) if n]
            raise UserError(
                f"base {base} is not a multiple of causal_block_size {size}; "
                f"nearest legal: {' or '.join(near)}"
            )
        least = math.ceil(self.steps / blocks)
        if self.new_blocks > blocks and self.ar_step < least:
            raise UserError(
                f"ar_step {self.ar_step} starts blocks before the window of base {base} can "
                f"hold them; nearest legal: {least}, or base {self.latent_frames}"
            )


def time_grid(plan: Plan) -> TimeGrid:
    """Returns the rows of `plan`, columns [rows, T].

    What the model is told: 999, or the level, for frames that wait, whole numbers on the way, 0 for
    frames that are done or given, and `addnoise_condition` for a noised prefix.
    """
    path = plan.path
    made = steps_made(plan)
    before, after = made[:-1], made[1:]
    told = np.append(whole_timesteps(path[:-1]), 0.0)
    timestep = told[before]
    timestep[after == 0] = WAITING if plan.level == 1 else told[0]
    noised = None
    if plan.prefix and plan.addnoise_condition:
        timestep[:, : plan.prefix] = plan.addnoise_condition
        noised = np.zeros(timestep.shape, np.float32)
        noised[:, : plan.prefix] = plan.addnoise_condition / TIMESTEPS
    grid = from_sigmas(path[made], timestep=timestep, update=before != after)
    return grid._replace(noised=noised, window=_window(plan, after))


def steps_made(plan: Plan) -> Int[np.ndarray, "rows_plus_1 T"]:
    """Returns how many steps each frame has made before each row and after the last.

    The closed form of the AD scheduler, which the peers run as a loop over rows and blocks; given
    frames count as done.
    """
    frame, size = np.arange(plan.latent_frames)[None], plan.causal_block_size
    start = plan.lag * (frame // size - plan.prefix // size)
    made = np.clip(np.arange(plan.rows + 1)[:, None] - start, 0, plan.steps)
    given = (frame < plan.prefix) | (frame >= plan.latent_frames - plan.suffix)
    return np.where(given, plan.steps, made)


def _window(plan: Plan, after: Int[np.ndarray, "rows T"]) -> Int[np.ndarray, "rows W"] | None:
    """Returns the last visible frames of those that have started, in every row."""
    if plan.visible == plan.latent_frames:
        return None
    started = plan.latent_frames - np.argmax(after[:, ::-1] > 0, axis=1)
    first = np.maximum(started - plan.visible, 0)
    return np.asarray(first[:, None] + np.arange(plan.visible)[None], np.int32)


def _check(name: str, value: int | float, low: int | float, high: int | float = math.inf) -> None:
    if not low <= value <= high:
        legal = f"{low:g} and more" if high == math.inf else f"{low:g} to {high:g}"
        raise UserError(f"{name} {value:g} is out of range; legal: {legal}")
