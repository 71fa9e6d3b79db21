"""What may be asked of a model: the checks that need no weights; messages say what is legal."""

import dataclasses
import itertools
import math
import numbers
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from skyreels_jax.core.config import suggest
from skyreels_jax.core.errors import UserError
from skyreels_jax.data.buckets import RESOLUTIONS
from skyreels_jax.diffusion.grids import SCHEDULES
from skyreels_jax.diffusion.plan import time_grid
from skyreels_jax.diffusion.solvers import SOLVERS
from skyreels_jax.diffusion.step_cache import check_times
from skyreels_jax.pipelines.defaults import Defaults
from skyreels_jax.pipelines.image import Still, oriented, read_still
from skyreels_jax.pipelines.lengths import CARRIES, FilmPlan
from skyreels_jax.pipelines.lora import Lora
from skyreels_jax.pipelines.teacache import Coefficients, TeaCache, unfitted
from skyreels_jax.pipelines.video import Video, read_video

DTYPES = ("float32", "bfloat16")
MAX_SEED = 2**32 - 1
MIN_FPS, MAX_FPS = 0.01, 240.0  # rates of films are fractions of at most 1001 (`film`)
MAX_FRAMES, MAX_SECONDS = 10**9, 10.0**7


@dataclasses.dataclass(frozen=True, kw_only=True)
class Geometry:
    """How pixels become tokens: VAE compression, transformer patch, reach of the rotary table.

    forcing: whether frames may be at different times, so that a film can go on from given ones.
    causal_block: how many latent frames see each other and none after them; 1: all see all.
    """

    latent_channels: int
    temporal: int = 4
    spatial: int = 8
    patch: tuple[int, int, int] = (1, 2, 2)
    max_positions: int = 1024
    forcing: bool = False
    causal_block: int = 1

    @property
    def carries(self) -> tuple[str, ...]:
        """What may go from window to window, the default first."""
        keeps_blocks = self.causal_block > 1 and self.patch[0] == 1
        return CARRIES if keeps_blocks else CARRIES[1:]

    def latent_shape(self, *, num_frames: int, height: int, width: int) -> tuple[int, ...]:
        """Returns [T, H, W, C] of the latents of one film."""
        frames = (num_frames - 1) // self.temporal + 1
        return frames, height // self.spatial, width // self.spatial, self.latent_channels


@dataclasses.dataclass(frozen=True, kw_only=True)
class Request:
    """Films to make, all checked: one prompt and one seed each, everything else shared.

    film: their windows, and the steps in each; solver: what makes these, of `SOLVERS`.
    image: what all of them start from; end_image: what they lead to; video: what they continue.
    lora: the adapters that the model has in all of them.
    step_cache: what lets steps skip the blocks; None: every step runs them.
    """

    prompts: tuple[str, ...]
    seeds: tuple[int, ...]
    negative_prompt: str
    film: FilmPlan
    height: int
    width: int
    guidance_scale: float
    fps: float
    dtype: str
    batch_size: int
    solver: str
    image: Still | None = None
    end_image: Still | None = None
    video: Video | None = None
    lora: tuple[Lora, ...] = ()
    step_cache: TeaCache | None = None

    @property
    def num_frames(self) -> int | None:
        """Frames of each film; None: no end."""
        return self.film.num_frames

    @property
    def inference_steps(self) -> int:
        """Steps that each latent frame makes."""
        return self.film.inference_steps

    @property
    def shift(self) -> float:
        """How far the steps are shifted to high noise."""
        return self.film.shift

    def batches(self) -> list[list[int]]:
        """Returns numbers of prompts in equal batches of at most `batch_size`; the last may repeat
        the end.
        """
        count = len(self.prompts)
        number = math.ceil(count / self.batch_size)
        size = math.ceil(count / number)
        rows = [min(i, count - 1) for i in range(number * size)]
        return [rows[start : start + size] for start in range(0, len(rows), size)]


def make_request(
    defaults: Defaults,
    geometry: Geometry,
    *,
    prompt: Any,
    seed: Any = 0,
    dtype: Any = "float32",
    image: Any = None,
    end_image: Any = None,
    video_path: Any = None,
    seconds: Any = None,
    endless: bool = False,
    lora: tuple[Lora, ...] = (),
    coefficients: Coefficients = unfitted,
    **options: Any,
) -> Request:
    """Returns the checked request; options that are absent or None take the model's defaults.

    An upright image or video swaps the sides of a film that is not upright.
    seconds: the least to make, in place of num_frames. endless: without either there is no end.
    coefficients: of the polynomial of a step cache.

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
    still, end = (None if i is None else read_still(i) for i in (image, end_image))
    video = None if video_path is None else read_video(video_path)
    high, wide = (geometry.spatial * geometry.patch[i] for i in (1, 2))
    height = _side("height", chosen["height"], high, geometry)
    width = _side("width", chosen["width"], wide, geometry)
    lead = still.pixels if still is not None else None if video is None else video.first
    if lead is not None:
        height, width = oriented(lead, height, width)
    if end is not None:
        _check_orientation(end, height, width)
    if endless or seconds is not None:
        chosen["num_frames"] = given.get("num_frames")
    if chosen["base_num_frames"] is None:
        chosen["base_num_frames"] = defaults.num_frames
    film = _film(geometry, chosen, image=still, end_image=end, video=video, seconds=seconds)
    return Request(
        prompts=prompts,
        seeds=_seeds(seed, len(prompts)),
        negative_prompt=chosen["negative_prompt"],
        film=film,
        height=height,
        width=width,
        guidance_scale=_real("guidance_scale", chosen["guidance_scale"], 100.0, zero=True),
        fps=_rate(chosen["fps"], video),
        dtype=check_dtype(dtype),
        batch_size=_whole("batch_size", chosen["batch_size"], 1, 4096),
        solver=_one_of("solver", chosen["solver"], tuple(SOLVERS)),
        image=still,
        end_image=end,
        video=video,
        lora=lora,
        step_cache=_step_cache(chosen, given, coefficients, film),
    )


def _step_cache(
    chosen: dict[str, Any], given: dict[str, Any], coefficients: Coefficients, film: FilmPlan
) -> TeaCache | None:
    for name in ("teacache", "use_ret_steps", "force_teacache"):
        if not isinstance(chosen[name], bool):
            raise UserError(f"{name} must be true or false, got {chosen[name]!r}")
    threshold = _real("teacache_thresh", chosen["teacache_thresh"], 100.0, zero=True)
    if not chosen["teacache"]:
        for name in ("teacache_thresh", "use_ret_steps", "force_teacache"):
            if given.get(name, False) is not False:
                raise UserError(f"{name} does nothing without teacache; give both, or neither")
        return None
    if film.cached:
        raise UserError(
            "teacache and carry 'cache' do not go together: a block from the cache runs the model "
            "in every step; legal: no teacache, or carry pixels or latents"
        )
    if not chosen["force_teacache"]:
        for window in itertools.islice(film.windows(), 2):  # the others are like the second
            check_times(time_grid(window.plan))
    return TeaCache(
        coefficients=coefficients(use_ret_steps=chosen["use_ret_steps"]),
        threshold=threshold,
        use_ret_steps=chosen["use_ret_steps"],
        force=chosen["force_teacache"],
    )


def _film(
    geometry: Geometry,
    chosen: dict[str, Any],
    *,
    image: Still | None,
    end_image: Still | None,
    video: Video | None,
    seconds: Any,
) -> FilmPlan:
    """Returns the windows of a film; those of a model that forces nothing are one."""
    step, frames = geometry.temporal * geometry.patch[0], chosen["num_frames"]
    limit = (geometry.max_positions - 1 - (end_image is not None)) * step + 1
    shared = {
        "temporal": step,
        "inference_steps": _whole("inference_steps", chosen["inference_steps"], 1, 1000),
        "shift": _real("shift", chosen["shift"], 100.0),
        "schedule": _one_of("schedule", chosen["schedule"], SCHEDULES),
    }
    if not geometry.forcing:
        return FilmPlan(num_frames=_whole("num_frames", frames, 1, limit), **shared)
    if seconds is not None and frames is not None:
        raise UserError("give num_frames or seconds, not both")
    carry = _carry(chosen["carry"], geometry)
    block = _block(chosen["causal_block_size"], geometry, carry)
    if end_image is not None and geometry.causal_block > 1:
        raise UserError(
            "a causal model does not see what comes later; give end_image to one that is not"
        )
    film = FilmPlan(
        num_frames=None if frames is None else _whole("num_frames", frames, 1, MAX_FRAMES),
        base_num_frames=_whole("base_num_frames", chosen["base_num_frames"], 1, limit),
        overlap_history=_whole("overlap_history", chosen["overlap_history"], 1, limit),
        image=image is not None,
        end_image=end_image is not None and seconds is None,
        video_frames=None if video is None else video.num_frames,
        ar_step=_whole("ar_step", chosen["ar_step"], 0, 1000),
        causal_block_size=block,
        addnoise_condition=_real(
            "addnoise_condition", chosen["addnoise_condition"], 999.0, zero=True
        ),
        carry=carry,
        sink_frames=_whole("sink_frames", chosen["sink_frames"], 0, geometry.max_positions),
        **shared,
    )
    if seconds is None:
        return film
    film = film.lasting(check_seconds(seconds), _rate(chosen["fps"], video))
    return dataclasses.replace(film, end_image=end_image is not None)


def _carry(carry: Any, geometry: Geometry) -> str:
    legal = geometry.carries
    if carry == "cache" and carry not in legal:
        raise UserError(
            "carry 'cache' keeps finished blocks, and those of this model are not final; legal: "
            f"{', '.join(legal)}, or a causal model (num_frame_per_block 2 and more)"
        )
    return legal[0] if carry is None else _one_of("carry", carry, legal)


def _block(size: Any, geometry: Geometry, carry: str) -> int:
    """Returns the latent frames of a block."""
    own = geometry.causal_block
    size = _whole("causal_block_size", own if size is None else size, 1, geometry.max_positions)
    if carry == "cache" and size != own:
        raise UserError(
            f"causal_block_size {size} is not that of this model's cache; "
            f"legal: {own}, or carry pixels or latents"
        )
    if size % own:
        raise UserError(
            f"causal_block_size {size} splits the blocks of this causal model; "
            f"legal: multiples of {own}"
        )
    return size


def _check_orientation(end_image: Still, height: int, width: int) -> None:
    high, wide = end_image.pixels.shape[:2]
    if (high - wide) * (height - width) < 0:
        stands, lies = ("stands", "lies") if high > wide else ("lies", "stands")
        raise UserError(
            f"end_image {wide}x{high} {stands} and the film {width}x{height} {lies}; "
            f"give one of about {width}:{height}, or a film the other way round"
        )


def check_seconds(seconds: Any) -> float:
    """Returns how long a film lasts."""
    return _real("seconds", seconds, MAX_SECONDS)


def _rate(fps: Any, video: Video | None) -> float:
    """Returns the frames a second of the film, which are those of the video it continues."""
    fps = _real("fps", fps, MAX_FPS)
    if fps < MIN_FPS:
        raise UserError(f"fps {fps:g} is out of range; legal: {MIN_FPS:g} to {MAX_FPS:g}")
    if video is not None and video.fps is not None and abs(video.fps - fps) > 0.01:
        raise UserError(
            f"the video has {video.fps:g} frames a second and the film {fps:g}; "
            f"give fps {video.fps:g}, or a video of {fps:g}"
        )
    return fps


def check_prompts(prompt: Any) -> tuple[str, ...]:
    """Returns one text or several as a tuple; `UserError` if none, an empty one, or no text."""
    alone = isinstance(prompt, str) or not isinstance(prompt, Iterable)
    prompts = (prompt,) if alone else tuple(prompt)
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
    """Returns (height, width) of a name such as "540P" or of "HxW"; the model says if it fits."""
    if text.lower() in RESOLUTIONS:
        return RESOLUTIONS[text.lower()]
    height, cross, width = text.lower().partition("x")
    if cross and height.isdecimal() and width.isdecimal():
        return int(height), int(width)
    raise UserError(
        f"resolution {text!r} is not one of {', '.join(RESOLUTIONS).upper()} or HxW such as 64x64"
    )


def _one_of(name: str, value: Any, legal: Sequence[str]) -> str:
    if value not in legal:
        raise UserError(f"{name} {value!r} is not one of {', '.join(legal)}")
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
    seeds = tuple(seed) if isinstance(seed, Iterable) else (seed,) * count
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
