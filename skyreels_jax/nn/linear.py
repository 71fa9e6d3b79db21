"""Dense layers. On one device every product sees two-dimensional operands: about 2.5x faster on XLA
CPU."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from skyreels_jax.parallel.activations import folded

Init = Callable[..., Array]  # (key, shape, dtype); without a key zeros: see `models.kinds`


def uniform(key: Array | None, shape: tuple[int, ...], dtype=jnp.float32, *, limit: float) -> Array:
    """Draws from -limit to limit."""
    if key is None:
        return jnp.zeros(shape, dtype)
    return jax.random.uniform(key, shape, dtype, -limit, limit)


def xavier_uniform(key: Array | None, shape: tuple[int, ...], dtype=jnp.float32) -> Array:
    """Glorot uniform; all axes but the last are the fan-in, also of a patch kernel."""
    fan_in, fan_out = math.prod(shape[:-1]), shape[-1]
    return uniform(key, shape, dtype, limit=math.sqrt(6.0 / (fan_in + fan_out)))


def normal(stddev: float) -> Init:
    """Returns an initialiser that draws N(0, stddev^2)."""

    def draw(key: Array | None, shape: tuple[int, ...], dtype=jnp.float32) -> Array:
        if key is None:
            return jnp.zeros(shape, dtype)
        return stddev * jax.random.normal(key, shape, dtype)

    return draw


def zeros(key: Array | None, shape: tuple[int, ...], dtype=jnp.float32) -> Array:
    """Returns zeros, whatever the key."""
    del key
    return jnp.zeros(shape, dtype)


def matmul(x: Float[Array, "*rows I"], kernel: Float[Array, "I O"]) -> Float[Array, "*rows O"]:
    """Returns `x @ kernel`, in the dtype of `kernel`."""
    return (folded(x).astype(kernel.dtype) @ kernel).reshape(*x.shape[:-1], -1)


class Linear(nnx.Module):
    """`y = x @ kernel + bias` over the last axis, kernel [in, out].

    Computes in the dtype of the kernel, or in `dtype` when given (kernel and input are cast to it).
    An `adapter`, if there is one, is called with x and its result added (see `nn.lora`).
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        bias: bool = True,
        kernel_init: Init = xavier_uniform,
        dtype: jnp.dtype | None = None,
        rngs: nnx.Rngs,
    ):
        self.kernel = nnx.Param(kernel_init(rngs.params(), (in_features, out_features)))
        self.bias = nnx.Param(jnp.zeros(out_features)) if bias else None
        self.dtype = dtype
        self.adapter: nnx.Module | None = None

    def __call__(self, x: Float[Array, "*rows I"]) -> Float[Array, "*rows O"]:
        kernel = self.kernel[...]
        kernel = kernel if self.dtype is None else kernel.astype(self.dtype)
        rows = folded(x)
        y = rows.astype(kernel.dtype) @ kernel
        if self.adapter is not None:
            y = y + self.adapter(rows).astype(y.dtype)
        if self.bias is not None:
            bias = self.bias[...].astype(y.dtype)
            y = y + bias.reshape((1,) * (y.ndim - 1) + bias.shape)
        return y.reshape(*x.shape[:-1], -1)


class MLP(nnx.Module):
    """`down(activation(up(x)))`."""

    def __init__(
        self,
        in_features: int,
        hidden_features: int,
        out_features: int,
        *,
        activation: Callable[[Array], Array],
        kernel_init: Init = xavier_uniform,
        down_init: Init | None = None,
        dtype: jnp.dtype | None = None,
        rngs: nnx.Rngs,
    ):
        self.up = Linear(
            in_features, hidden_features, kernel_init=kernel_init, dtype=dtype, rngs=rngs
        )
        self.down = Linear(
            hidden_features,
            out_features,
            kernel_init=down_init or kernel_init,
            dtype=dtype,
            rngs=rngs,
        )
        self.activation = activation

    def __call__(self, x: Float[Array, "*rows I"]) -> Float[Array, "*rows O"]:
        # Rows stay one axis in between: of three short ones XLA adds up the gradient of `up`'s bias
        # without vectors, a sixth of the CPU's training step.
        rows = self.down(self.activation(self.up(folded(x))))
        return rows.reshape(*x.shape[:-1], -1)


def gelu_tanh(x: Array) -> Array:
    """Gaussian error linear unit, tanh approximation."""
    return jax.nn.gelu(x, approximate=True)


def gelu_exact(x: Array) -> Array:
    """Gaussian error linear unit through erf."""
    return jax.nn.gelu(x, approximate=False)
