"""The json beside a film: everything needed to make the same film again."""

import dataclasses
import json
import pathlib

from skyreels_jax.core.config import from_dict
from skyreels_jax.core.errors import UserError
from skyreels_jax.pipelines.lora import Lora


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe:
    """How one film was made.

    fingerprint: names the weights.  latents: sha256 of the initial noise if it was given by hand,
    for then the seed does not make the film again.  image: the file that the film starts from, and
    image_sha256 of its pixels; an image handed over in Python has no file; and so for the image
    that it leads to and the video that it continues.  num_frames: None for a film without end; the
    rest of its windows: None for models that make films in one go.  The last three fields say where
    it was made.
    lora: the adapters merged into the weights, which their own fingerprints name.  teacache_thresh
    and what follows: of the step cache, where there was one.
    """

    model_id: str
    fingerprint: str
    prompt: str
    negative_prompt: str
    seed: int
    num_frames: int | None
    height: int
    width: int
    inference_steps: int
    guidance_scale: float
    shift: float
    fps: float
    dtype: str
    solver: str = "unipc"
    schedule: str = "diffusers"
    lora: tuple[Lora, ...] = ()
    teacache: bool = False
    teacache_thresh: float | None = None
    use_ret_steps: bool | None = None
    force_teacache: bool | None = None
    latents: str | None = None
    image: str | None = None
    image_sha256: str | None = None
    end_image: str | None = None
    end_image_sha256: str | None = None
    video_path: str | None = None
    video_sha256: str | None = None
    base_num_frames: int | None = None
    overlap_history: int | None = None
    addnoise_condition: float | None = None
    ar_step: int | None = None
    causal_block_size: int | None = None
    carry: str | None = None
    sink_frames: int | None = None
    skyreels_jax: str
    jax: str
    device: str


def read_recipe(path: pathlib.Path) -> Recipe:
    """Returns the recipe in a film's json; `UserError` if it is none, or cannot be repeated."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"cannot read {str(path)!r}: {error.strerror}") from None
    except ValueError:
        raise UserError(
            f"{str(path)!r} is not json; give the file that lies beside a film"
        ) from None
    if not isinstance(values, dict):
        raise UserError(f"{str(path)!r} is not a recipe; give the file beside a film")
    recipe = from_dict(Recipe, values)
    if recipe.latents is not None:
        raise UserError(
            f"the film of {str(path)!r} began from latents given by hand; "
            "repeat it in Python: model.generate(..., latents=...)"
        )
    return recipe
