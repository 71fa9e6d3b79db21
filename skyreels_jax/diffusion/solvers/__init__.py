"""Solvers: how a sample moves from one noise level to the next, given the velocity."""

from skyreels_jax.core.config import suggest
from skyreels_jax.core.errors import UserError
from skyreels_jax.diffusion.solvers.base import Solver
from skyreels_jax.diffusion.solvers.euler import Euler
from skyreels_jax.diffusion.solvers.unipc import UniPC

SOLVERS: dict[str, type[Solver]] = {"unipc": UniPC, "euler": Euler}

__all__ = ["SOLVERS", "Euler", "Solver", "UniPC", "make_solver"]


def make_solver(name: str) -> Solver:
    """Returns the solver called `name`; raises `UserError` for an unknown one."""
    if name not in SOLVERS:
        raise UserError(f"no solver {name!r}{suggest(name, SOLVERS)}")
    return SOLVERS[name]()
