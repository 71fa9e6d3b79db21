"""What a solver is: `init` and `step` on an explicit state that is kept per latent frame."""

from typing import Any, Protocol, runtime_checkable

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Shaped

from skyreels_jax.core.types import Latents
from skyreels_jax.diffusion.grids import TimeGrid


@runtime_checkable
class Solver(Protocol):
    """A hashable value (a frozen dataclass) without arrays; all that changes lives in its state.

    `state = init(x)` starts all frames. `state, x = step(state, x, v, row)` moves every latent
    frame that `row.update` marks from `row.sigma` to `row.sigma_next`, with `v` the velocity at
    `x` and `row.timestep`. The other frames keep both x and their history, so frames may be
    anywhere on their own way. Both are pure, and the state is a pytree of fixed shapes.
    """

    def init(self, x: Latents) -> Any: ...

    def step(self, state: Any, x: Latents, v: Latents, row: TimeGrid) -> tuple[Any, Latents]: ...


def over_latents(values: Shaped[Array | np.ndarray, "#T"]) -> Shaped[Array, "1 #T 1 1 1"]:
    """Returns values per latent frame with the axes that broadcast over latents."""
    return jnp.asarray(values)[None, :, None, None, None]
