"""Low-rank adapters (LoRA, Hu et al. 2021, arXiv 2106.09685) in a model, to be trained.

A layer with an adapter is y = x W + bias + scale * (x down) up. W is no parameter then, so that no
gradient, no state of an optimiser and no average of it is ever held, and the product `down up`,
which has the size of W, is never formed.
"""

import math
import re
from collections.abc import Iterable

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from skyreels_jax.core.errors import UserError
from skyreels_jax.nn.linear import Linear, uniform, zeros
from skyreels_jax.nn.stack import stack


class Fixed(nnx.Variable):
    """A weight that is not trained; what is not a `nnx.Param` has no gradient."""


class Adapter(nnx.Module):
    """scale * (x @ down) @ up. `up` begins as zeros, so that a model starts unchanged; `down` is
    drawn as peft draws it, U(-1, 1) / sqrt(in_features).
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        rank: int,
        scale: float,
        dtype: jnp.dtype | None,
        rngs: nnx.Rngs,
    ):
        small = {"bias": False, "dtype": dtype, "rngs": rngs}
        self.down = Linear(in_features, rank, kernel_init=_uniform, **small)
        self.up = Linear(rank, out_features, kernel_init=zeros, **small)
        self.scale = scale

    def __call__(self, x: Float[Array, "*rows I"]) -> Float[Array, "*rows O"]:
        return self.scale * self.up(self.down(x))


def _uniform(key: Array | None, shape: tuple[int, ...], dtype=jnp.float32) -> Array:
    return uniform(key, shape, dtype, limit=1 / math.sqrt(shape[-2]))


def add_adapters(
    model: nnx.Module,
    targets: Iterable[str],
    *,
    rank: int,
    alpha: float,
    within: str = "",
    rngs: nnx.Rngs,
) -> None:
    """Gives the layers of `model` that `targets` name an adapter of scale alpha / rank; all
    parameters that there were become `Fixed`. The model itself is changed, and computes as before.

    targets: regular expressions of paths of kernels, such as "blocks/attn1/q/kernel", whole.
    within: beginning of the paths that may be named.
    A stack of layers gets a stack of adapters, at the path of the layer + "/adapter".
    Raises `UserError` for a target that names no kernel of a `Linear`, and for a rank that is not
    less than or equal to both sides of all matrices that are named.
    """
    layers = {
        f"{'/'.join(map(str, path))}/kernel": module
        for path, module in nnx.iter_modules(model)
        if isinstance(module, Linear)
    }
    legal = [name for name in layers if name.startswith(within)]
    named = [name for name in legal if any(re.fullmatch(target, name) for target in targets)]
    for target in targets:
        if not any(re.fullmatch(target, name) for name in named):
            raise UserError(
                f"lora.targets: {target!r} matches no linear layer; legal are regular expressions "
                f"of {', '.join(sorted(legal))}"
            )
    narrowest = min(min(layers[name].kernel.shape[-2:]) for name in named)
    if rank > narrowest:
        raise UserError(
            f"lora.rank: {rank} is more than the smallest of the layers has; legal: 1 to "
            f"{narrowest}"
        )
    _fix(model)
    for name in named:
        layer = layers[name]
        *depth, fan_in, fan_out = layer.kernel.shape
        shape = {"rank": rank, "scale": alpha / rank, "dtype": layer.dtype}

        def make(rngs, sides=(fan_in, fan_out), shape=shape):
            return Adapter(*sides, **shape, rngs=rngs)

        layer.adapter = nnx.data(stack(make, *depth, rngs=rngs) if depth else make(rngs))


def _fix(model: nnx.Module) -> None:
    """Makes every parameter of `model` a `Fixed`."""
    for _, module in nnx.iter_modules(model):
        for name, value in list(vars(module).items()):
            if isinstance(value, nnx.Param):
                setattr(module, name, Fixed(value[...]))
