"""The compiled parts of making a film: text to context, noise to latents, latents to frames."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.tree_util import Partial
from jaxtyping import Array, Float, UInt8

from skyreels_jax.core.rng import stream
from skyreels_jax.core.types import Latents, Params
from skyreels_jax.diffusion.grids import synchronous
from skyreels_jax.diffusion.guidance import conditional, guided
from skyreels_jax.diffusion.sample import sample_steps
from skyreels_jax.diffusion.solvers import UniPC
from skyreels_jax.models.umt5.text import tokenize
from skyreels_jax.pipelines.validate import Request

MAX_TOKENS = 512
TOKEN_BUCKET = 64  # texts are padded to a multiple of this: a compiled program serves many lengths


@dataclasses.dataclass(frozen=True)
class Method:
    """A method of a model as a function of its parameters: `Method(graphdef, name)(params, ...)`.

    Equal ones are equal to jit as well, so a second model of the same make compiles nothing.
    """

    graphdef: Any
    name: str

    def __call__(self, params: Params, *args: Any, **kwargs: Any) -> Any:
        return getattr(nnx.merge(self.graphdef, params), self.name)(*args, **kwargs)


def initial_noise(seeds: Sequence[int], shape: tuple[int, ...]) -> Latents:
    """Returns unit Gaussian noise [B, *shape], float32; each sample depends on its seed only."""
    return jnp.stack([jax.random.normal(stream(s, "noise"), shape, jnp.float32) for s in seeds])


def encode_texts(
    graphdef: Any, params: Params, tokenizer: Any, texts: Sequence[str]
) -> dict[str, Mapping[str, Array]]:
    """Returns {text: {"context" [1, S, E], "context_weight" [1, S]}} with one S for all of them.

    One text at a time: one compiled program, and a context that no other text in the batch touches.
    """
    unique = list(dict.fromkeys(texts))
    tokens = tokenize(tokenizer, unique, max_length=MAX_TOKENS, multiple=TOKEN_BUCKET)
    encode = Method(graphdef, "encode")
    return {
        text: compiled_call(encode, params, ids[None], length[None])
        for text, ids, length in zip(unique, tokens["input_ids"], tokens["length"], strict=True)
    }


def denoise(
    graphdef: Any,
    params: Params,
    noise: Latents,
    cond: Mapping[str, Array],
    null_cond: Mapping[str, Array],
    request: Request,
    *,
    progress: Callable[[int], Any] | None = None,
) -> Latents:
    """Returns the latents at the end of all steps, float32; `progress(1)` is called after each.

    Guidance at 1 or below is no guidance, as in diffusers.
    """
    model = Partial(Method(graphdef, "__call__"), params)
    if request.guidance_scale > 1:
        velocity = guided(model, cond, null_cond, request.guidance_scale)
    else:
        velocity = conditional(model, cond)
    grid = synchronous(request.inference_steps, shift=request.shift)
    latents = noise
    for latents in sample_steps(velocity, noise, grid, UniPC()):
        if progress is not None:
            jax.block_until_ready(latents)
            progress(1)
    return latents


def decode(
    graphdef: Any, params: Params, latents: Float[np.ndarray, "1 T H W C"]
) -> UInt8[np.ndarray, "F P Q 3"]:
    """Returns the frames of one film from its latents, one latent frame after the other.

    So memory does not grow with length, and two compiled programs (the first frame, all others)
    serve films of any length.
    """
    return np.concatenate(list(decoded_chunks(graphdef, params, latents)))


def decoded_chunks(
    graphdef: Any, params: Params, latents: Float[np.ndarray, "1 T H W C"]
) -> Iterator[UInt8[np.ndarray, "F P Q 3"]]:
    """Yields one frame, then four at a time; cutting on the host compiles nothing."""
    cache = None
    for t in range(latents.shape[1]):
        pixels, cache = compiled_decode(graphdef, params, latents[:, t : t + 1], cache)
        yield np.asarray(pixels)[0]


def decode_chunk(graphdef: Any, params: Params, latents: Latents, cache: Any) -> tuple[Array, Any]:
    vae = nnx.merge(graphdef, params)
    video, cache = vae.decode_chunk(vae.denormalize(latents), cache)
    return to_uint8(video), cache


def to_uint8(video: Float[Array, "B T H W 3"]) -> UInt8[Array, "B T H W 3"]:
    """Returns pixels in [-1, 1] as bytes, rounded to nearest even as diffusers' PIL output is."""
    unit = jnp.clip(video.astype(jnp.float32) * 0.5 + 0.5, 0.0, 1.0)
    return jnp.round(unit * 255.0).astype(jnp.uint8)


def call(method: Method, params: Params, *args: Any) -> Any:
    return method(params, *args)


compiled_call = jax.jit(call, static_argnums=0)
compiled_decode = jax.jit(decode_chunk, static_argnums=0, donate_argnums=3)
