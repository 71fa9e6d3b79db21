"""Time grids: which latent frame moves from where to where in each row of the sampler.

A grid is data. One column is full-sequence diffusion; one column per latent frame says anything
else (staggered frames, clean prefixes, frames that wait), with the same sampler and solvers.
"""

from typing import Literal, NamedTuple, get_args

import numpy as np
from jaxtyping import Bool, Float, Int

from skyreels_jax.core.errors import UserError
from skyreels_jax.diffusion.flow import TIMESTEPS, shift_sigma

Columns = Float[np.ndarray, "rows #T"]
Schedule = Literal["diffusers", "official"]
SCHEDULES: tuple[Schedule, ...] = get_args(Schedule)


class TimeGrid(NamedTuple):
    """The rows of a sampling run, first to last; a pytree, so `lax.scan` hands out single rows.

    It is host data (numpy float32) passed to compiled code as arguments: another shift or another
    frame schedule with as many rows compiles nothing.
    """

    timestep: Columns  # what the model is told, in [0, 1000]
    sigma: Columns  # noise level before the row
    sigma_next: Columns  # noise level after it
    update: Bool[np.ndarray, "rows #T"]  # False: the frame waits, with its solver history
    noised: Columns | None = None  # noise level mixed into what the model sees; None: none
    window: Int[np.ndarray, "rows W"] | None = None  # the frames the model sees; None: all


def from_sigmas(
    sigma: Float[np.ndarray, "rows_plus_1 #T"],
    *,
    timestep: Columns | None = None,
    update: Bool[np.ndarray, "rows #T"] | None = None,
) -> TimeGrid:
    """Returns the grid that visits `sigma` row by row.

    timestep: defaults to 1000 * sigma. update: defaults to the frames whose sigma changes.
    Raises `UserError` if a sigma is outside [0, 1].
    """
    sigma = np.asarray(sigma, np.float64)
    if not np.all((sigma >= 0) & (sigma <= 1)):
        raise UserError("sigmas must be between 0 and 1")
    now, after = sigma[:-1], sigma[1:]
    timestep = TIMESTEPS * now if timestep is None else timestep
    update = now != after if update is None else update
    return TimeGrid(
        timestep=np.asarray(timestep, np.float32),
        sigma=np.asarray(now, np.float32),
        sigma_next=np.asarray(after, np.float32),
        update=np.asarray(update, bool),
    )


def flow_sigmas(
    steps: int, *, shift: float = 1.0, schedule: Schedule = "diffusers", level: float = 1.0
) -> Float[np.ndarray, " steps_plus_1"]:
    """Returns the shifted noise levels of `steps` steps and the final 0, float64.

    "diffusers": `UniPCMultistepScheduler(use_flow_sigmas=True, flow_shift=shift)`: evenly spaced
      from 1 to 0.001 with the last one dropped, shifted, and the 1 lowered by 1e-6.
    "official": `FlowUniPCMultistepScheduler.set_timesteps(steps, shift=shift)`: evenly spaced from
      float32(0.999) to 0 with the last one dropped, shifted.
    level: where to start; below the first, only the levels under it are left, behind itself.
    Raises `UserError` for steps < 1, shift <= 0 or a level that is not in (0, 1].
    """
    if not 0 < level <= 1:
        raise UserError(f"noise level {level:g} is out of range; legal: more than 0, at most 1")
    if steps < 1:
        raise UserError(f"inference_steps must be at least 1, got {steps}")
    if not shift > 0:
        raise UserError(f"shift must be positive, got {shift}")
    if schedule == "official":
        sigma = np.linspace(float(np.float32(1 - 1 / TIMESTEPS)), 0.0, steps + 1)[:-1]
    elif schedule == "diffusers":
        sigma = np.linspace(1.0, 1 / TIMESTEPS, steps + 1)[:-1]
    else:
        raise UserError(f"schedule {schedule!r} is not one of {', '.join(SCHEDULES)}")
    sigma = shift_sigma(sigma, shift)
    sigma[0] = min(sigma[0], 1 - 1e-6)
    if level < sigma[0]:
        sigma = np.append(level, sigma[sigma < level])
    return np.append(sigma, 0.0)


def whole_timesteps(sigma: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
    """Returns 1000 sigma truncated: both peers hand the model whole numbers.

    Their solvers keep the exact sigma. (With hundreds of steps and a large shift the first two
    whole numbers agree, and diffusers then looks up the wrong first step; not repeated here.)
    """
    return np.trunc(TIMESTEPS * sigma)


def synchronous(steps: int, *, shift: float = 1.0, schedule: Schedule = "diffusers") -> TimeGrid:
    """Returns the grid [steps, 1] on which all latent frames move together."""
    sigma = flow_sigmas(steps, shift=shift, schedule=schedule)[:, None]
    return from_sigmas(sigma, timestep=whole_timesteps(sigma[:-1]))
