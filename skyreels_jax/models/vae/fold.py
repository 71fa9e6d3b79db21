"""Parameter-free rearrangements: pixels into channels, pooled and repeated shortcuts (Wan 2.2)."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from skyreels_jax.core.errors import UserError


def patchify(x: Float[Array, "B T H W C"], patch: int) -> Float[Array, "B T h w c"]:
    """Folds `patch` x `patch` pixels into channels, ordered (channel, column, row)."""
    b, t, h, w, c = x.shape
    x = x.reshape(b, t, h // patch, patch, w // patch, patch, c)
    return x.transpose(0, 1, 2, 4, 6, 5, 3).reshape(b, t, h // patch, w // patch, -1)


def unpatchify(x: Float[Array, "B T h w c"], patch: int) -> Float[Array, "B T H W C"]:
    """Inverse of `patchify`."""
    b, t, h, w, c = x.shape
    x = x.reshape(b, t, h, w, c // patch**2, patch, patch)
    return x.transpose(0, 1, 2, 6, 3, 5, 4).reshape(b, t, h * patch, w * patch, -1)


def check_pool(width: int, out_width: int, *, time: int, space: int) -> None:
    """Raises `UserError` unless `pool` can map `width` channels to `out_width`."""
    if width * time * space**2 % out_width:
        raise UserError(
            f"is_residual: {width} channels x {time * space**2} do not pool into {out_width}"
        )


def pool(
    x: Float[Array, "B T H W C"], out_width: int, *, time: int, space: int, first: bool
) -> Float[Array, "B t h w O"]:
    """Folds `time` x `space` x `space` values into channels and averages them down to `out_width`.

    On the first chunk zero frames go in front, so that frame 0 is alone in its group.
    """
    if first:
        x = jnp.pad(x, ((0, 0), (time - 1, 0), (0, 0), (0, 0), (0, 0)))
    b, t, h, w, c = x.shape
    x = x.reshape(b, t // time, time, h // space, space, w // space, space, c)
    x = x.transpose(0, 1, 3, 5, 7, 2, 4, 6)
    return x.reshape(*x.shape[:4], out_width, -1).mean(axis=-1)


def check_spread(width: int, out_width: int, *, time: int, space: int) -> None:
    """Raises `UserError` unless `spread` can map `width` channels to `out_width`."""
    if out_width * time * space**2 % width:
        raise UserError(
            f"is_residual: {width} channels do not spread into {out_width} x {time * space**2}"
        )


def spread(
    x: Float[Array, "B t h w C"], out_width: int, *, time: int, space: int, first: bool
) -> Float[Array, "B T H W O"]:
    """Repeats channels and unfolds them into `time` x `space` x `space` values per pixel.

    On the first chunk the frames before the first one are dropped: frame 0 gives one frame.
    """
    b, t, h, w, c = x.shape
    x = jnp.repeat(x, out_width * time * space**2 // c, axis=-1)
    x = x.reshape(b, t, h, w, out_width, time, space, space).transpose(0, 1, 5, 2, 6, 3, 7, 4)
    x = x.reshape(b, t * time, h * space, w * space, out_width)
    return x[:, time - 1 :] if first else x
