"""Names of the dimensions of activations, and the mesh axes they go over."""

import jax
from jax.sharding import PartitionSpec

from skyreels_jax.parallel.mesh import BATCH

# Tokens are those of a frame: every device has a part of every frame. So the devices have equal
# work whatever frames a query may see, and what is said per frame goes with no axis that is cut.
OVER = {"batch": BATCH, "tokens": "context", "heads": "tensor", None: None}


def meshed() -> bool:
    """Returns whether arrays are divided: inside `jax.set_mesh`, of more than one device."""
    mesh = jax.sharding.get_abstract_mesh()
    return not mesh.empty and mesh.size > 1


def folded(x: jax.Array, *kept: int) -> jax.Array:
    """Returns `x` with all axes between `kept`, the sizes of the first ones, and the last as one,
    which XLA's CPU backend computes and adds up faster; as it is where arrays are divided: axes
    that are cut each for itself cannot be one without an exchange.
    """
    return x if meshed() else x.reshape(*kept, -1, x.shape[-1])


def spec(*names: str | None) -> PartitionSpec:
    """Returns over which mesh axes dimensions of these names (keys of `OVER`) go."""
    return PartitionSpec(*(OVER[name] for name in names))


def constrain(x: jax.Array, *names: str | None) -> jax.Array:
    """Returns `x`, its dimensions divided as their names say; as it is where there is no mesh."""
    return jax.lax.with_sharding_constraint(x, spec(*names)) if meshed() else x
