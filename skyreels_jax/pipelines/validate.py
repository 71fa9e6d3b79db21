"""What may be asked of a model: the checks that need no weights; messages say what is legal."""

import dataclasses
import numbers
from collections.abc import Sequence
from typing import Any

import numpy as np

from skyreels_jax.core.config import suggest
from skyreels_jax.core.errors import UserError
from skyreels_jax.pipelines.defaults import Defaults
from skyreels_jax.pipelines.image import Still, oriented, read_still

RESOLUTIONS = {"540P": (544, 960), "720P": (720, 1280)}  # the official names: height, width
DTYPES = ("float32", "bfloat16")
MAX_SEED = 2**32 - 1
MAX_FPS = 240.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Geometry:
    """How pixels become tokens: VAE compression, transformer patch, reach of the rotary table."""

    latent_channels: int
    temporal: int = 4
    spatial: int = 8
    patch: tuple[int, int, int] = (1, 2, 2)
    max_positions: int = 1024

    def latent_shape(self, *, num_frames: int, height: int, width: int) -> tuple[int, ...]:
        """Returns [T, H, W, C] of the latents of one film."""
        frames = (num_frames - 1) // self.temporal + 1
        return frames, height // self.spatial, width // self.spatial, self.latent_channels


@dataclasses.dataclass(frozen=True, kw_only=True)
class Request:
    """Films to make, all checked: one prompt and one seed each, everything else shared.

    image: what all of them start from, for models that start from an image.
    """

    prompts: tuple[str, ...]
    seeds: tuple[int, ...]
    negative_prompt: str
    num_frames: int
    height: int
    width: int
    inference_steps: int
    guidance_scale: float
    shift: float
    fps: float
    dtype: str
    batch_size: int
    image: Still | None = None


def make_request(
    defaults: Defaults,
    geometry: Geometry,
    *,
    prompt: Any,
    seed: Any = 0,
    dtype: Any = "float32",
    image: Any = None,
    **options: Any,
) -> Request:
    """Returns the checked request; options that are absent or None take the model's defaults.

    An upright image swaps the sides of a film that is not upright.

    Raises:
      UserError: something cannot be made; the message names the nearest legal values.
    """
    legal = [f.name for f in dataclasses.fields(Defaults)]
    for name in options:
        if name not in legal:
            raise UserError(f"generate has no option {name!r}{suggest(name, legal)}")
    given = {name: value for name, value in options.items() if value is not None}
    chosen = {**dataclasses.asdict(defaults), **given}
    if not isinstance(chosen["negative_prompt"], str):
        raise UserError("negative_prompt must be one text, shared by all films")
    prompts = check_prompts(prompt)
    still = None if image is None else read_still(image)
    high, wide = (geometry.spatial * geometry.patch[i] for i in (1, 2))
    step = geometry.temporal * geometry.patch[0]
    height = _side("height", chosen["height"], high, geometry)
    width = _side("width", chosen["width"], wide, geometry)
    if still is not None:
        height, width = oriented(still.pixels, height, width)
    return Request(
        prompts=prompts,
        seeds=_seeds(seed, len(prompts)),
        negative_prompt=chosen["negative_prompt"],
        num_frames=_frames(chosen["num_frames"], step, geometry),
        height=height,
        width=width,
        inference_steps=_whole("inference_steps", chosen["inference_steps"], 1, 1000),
        guidance_scale=_real("guidance_scale", chosen["guidance_scale"], 100.0, zero=True),
        shift=_real("shift", chosen["shift"], 100.0),
        fps=_real("fps", chosen["fps"], MAX_FPS),
        dtype=check_dtype(dtype),
        batch_size=_whole("batch_size", chosen["batch_size"], 1, 4096),
        image=still,
    )


def check_prompts(prompt: Any) -> tuple[str, ...]:
    """Returns one text or several as a tuple; `UserError` if none, an empty one, or no text."""
    prompts = (prompt,) if isinstance(prompt, str) else tuple(prompt)
    if not prompts:
        raise UserError("no prompt given; say in a sentence what the film shows")
    for text in prompts:
        if not isinstance(text, str):
            raise UserError(f"a prompt is a text, got {type(text).__name__}")
        if not text.strip():
            raise UserError("the prompt is empty; say in a sentence what the film shows")
    return prompts


def check_token_counts(prompts: Sequence[str], counts: Sequence[int], *, max_length: int) -> None:
    """Raises `UserError` for the first prompt whose token count exceeds `max_length`."""
    for prompt, count in zip(prompts, counts, strict=True):
        if count > max_length:
            raise UserError(
                f"the prompt {prompt[:40]!r}... has {count} tokens; at most {max_length} are legal"
            )


def check_latents(latents: Any, shape: tuple[int, ...]) -> np.ndarray:
    """Returns the initial noise on the host; `UserError` unless float32, of `shape`, finite."""
    array = np.asarray(latents)
    if array.shape != shape or array.dtype != np.float32:
        raise UserError(
            f"latents must be float32 {list(shape)} [B, T, H, W, C] here, "
            f"got {array.dtype} {list(array.shape)}"
        )
    if not np.isfinite(array).all():
        raise UserError("latents must be finite; they hold NaN or infinity")
    return array


def check_dtype(dtype: Any) -> str:
    """Returns `dtype` if it is legal."""
    if dtype not in DTYPES:
        raise UserError(f"dtype {dtype!r} is not supported; legal: {', '.join(DTYPES)}")
    return dtype


def parse_resolution(text: str) -> tuple[int, int]:
    """Returns (height, width) of "540P", "720P" or "HxW"; whether it fits is the model's to say."""
    if text.upper() in RESOLUTIONS:
        return RESOLUTIONS[text.upper()]
    height, cross, width = text.lower().partition("x")
    if cross and height.isdecimal() and width.isdecimal():
        return int(height), int(width)
    raise UserError(
        f"resolution {text!r} is not one of {', '.join(RESOLUTIONS)} or HxW such as 64x64"
    )


def _frames(value: Any, step: int, geometry: Geometry) -> int:
    limit = geometry.max_positions * step - step + 1
    value = _whole("num_frames", value, 1, limit)
    if value % step != 1 % step:
        below = (value - 1) // step * step + 1
        near = " or ".join(str(n) for n in (below, below + step) if n <= limit)
        raise UserError(f"num_frames {value} is not {step}k+1; nearest legal: {near}")
    return value


def _side(name: str, value: Any, multiple: int, geometry: Geometry) -> int:
    limit = geometry.max_positions * multiple
    value = _whole(name, value, multiple, limit)
    if value % multiple:
        below = value // multiple * multiple
        near = " or ".join(str(n) for n in (below, below + multiple) if n <= limit)
        raise UserError(f"{name} {value} is not divisible by {multiple}; nearest legal: {near}")
    return value


def _seeds(seed: Any, count: int) -> tuple[int, ...]:
    seeds = (seed,) * count if isinstance(seed, numbers.Integral) else tuple(seed)
    if len(seeds) != count:
        raise UserError(f"{len(seeds)} seeds for {count} prompts; give one seed, or one per prompt")
    return tuple(_whole("seed", s, 0, MAX_SEED) for s in seeds)


def _whole(name: str, value: Any, low: int, high: int) -> int:
    if not isinstance(value, numbers.Integral) or isinstance(value, bool):
        raise UserError(f"{name} must be a whole number, got {value!r}")
    if not low <= value <= high:
        raise UserError(f"{name} {value} is out of range; legal: {low} to {high}")
    return int(value)


def _real(name: str, value: Any, high: float, *, zero: bool = False) -> float:
    if not isinstance(value, numbers.Real) or isinstance(value, bool):
        raise UserError(f"{name} must be a number, got {value!r}")
    value = float(value)
    if not (0 < value <= high or (zero and value == 0)):
        legal = f"{'at least' if zero else 'more than'} 0, at most {high:g}"
        raise UserError(f"{name} {value:g} is out of range; legal: {legal}")
    return value
