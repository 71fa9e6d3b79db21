"""What a model makes when nothing is asked for."""

import dataclasses
import json
import pathlib
from collections.abc import Mapping
from typing import Any

from skyreels_jax.core.config import from_dict, to_dict
from skyreels_jax.core.errors import UserError
from skyreels_jax.data.buckets import sizes
from skyreels_jax.data.video_folder.rate import RATES
from skyreels_jax.models.layout import SETTINGS, ModelFolder
from skyreels_jax.pipelines.prompts import WAN_NEGATIVE_PROMPT


@dataclasses.dataclass(frozen=True, kw_only=True)
class Defaults:
    """Options of `VideoModel.generate`; the values here are the official ones at 540P.

    solver: "unipc", of order 2, as in the official code, or "euler", of order 1.
    schedule: whose noise levels the steps visit, "diffusers" or "official" (`diffusion.grids`).
    batch_size: how many films are denoised side by side.
    teacache: whether steps reuse the residual of the blocks; teacache_thresh: how much the time
    embedding may change before they run again (0.2: in 11 of the 25 steps of "tiny");
    use_ret_steps: judge by the blocks' modulation, after five steps that always run;
    force_teacache: for diffusion forcing too, where it is refused.
    base_num_frames: of a window of a long film, or how many frames a cache shows; None: num_frames.
    overlap_history: how many frames a window takes from the one before (the official code has no
    default and recommends 17 or 37).
    causal_block_size: None: as many as the model's own blocks have.
    carry: "pixels" are encoded again for the next window, as in the official code; "latents" are
    handed on as they are; "cache", for causal models, hands on the keys and values of finished
    blocks, one of which is a window. None: "cache" for causal models, "pixels" for others.
    sink_frames: how many latent frames at the start of the film a cache never drops.
    """

    num_frames: int = 97
    height: int = 544
    width: int = 960
    fps: float = 24.0
    inference_steps: int = 50
    guidance_scale: float = 6.0
    shift: float = 8.0
    solver: str = "unipc"
    schedule: str = "diffusers"
    negative_prompt: str = WAN_NEGATIVE_PROMPT
    batch_size: int = 1
    teacache: bool = False
    teacache_thresh: float = 0.2
    use_ret_steps: bool = False
    force_teacache: bool = False
    base_num_frames: int | None = None
    overlap_history: int = 17
    addnoise_condition: float = 0.0
    ar_step: int = 0
    causal_block_size: int | None = None
    carry: str | None = None
    sink_frames: int = 0


# The official values that differ for image-to-video models.
IMAGE_TO_VIDEO = {"shift": 5.0, "guidance_scale": 5.0}


def read_defaults(
    folder: pathlib.Path, scheduler: dict[str, Any], *, image: bool = False
) -> Defaults:
    """Returns what the folder states, or else the official values with its own shift.

    image: for an image-to-video model.
    """
    path = folder / SETTINGS
    if not path.exists():
        official = IMAGE_TO_VIDEO if image else {}
        own = {"shift": scheduler["flow_shift"]} if "flow_shift" in scheduler else {}
        return from_dict(Defaults, {**official, **own})
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: not readable as json ({error})") from None
    return from_dict(Defaults, values)


def write_defaults(folder: pathlib.Path, defaults: Defaults) -> None:
    """Writes the settings file of a model folder."""
    text = json.dumps(to_dict(defaults), ensure_ascii=False, indent=2)
    (folder / SETTINGS).write_text(text + "\n", encoding="utf-8")


def own_defaults(folder: ModelFolder, config: Mapping[str, Any]) -> Defaults:
    """Returns what a model trained on own videos makes: films like those it was trained on at last,
    and all else as the model in `folder`, whose VAE and text encoder it has.

    config: of its training, resolved, as a dict.
    """
    last = config["stages"][-1]
    height, width = sizes(last["resolution"])[0]
    return dataclasses.replace(
        read_defaults(folder.path, folder.scheduler),
        num_frames=last["frames"],
        height=height,
        width=width,
        fps=float(config["data"]["fps"] or RATES[0]),
        shift=config["flow_shift"],
    )


def toy_defaults(config: Mapping[str, Any]) -> Defaults:
    """Returns what a model trained on ToyFilm makes: clips like those it was trained on.

    config: of its training, resolved, as a dict; runs of earlier versions lack some fields of its
    data. Clips are as long as the longest stage's, at the frame rate that was kept, or else the
    first. Who saw windows from the middle of clips carries latents: it drifts less then
    (docs/log.md).
    """
    from skyreels_jax.data.toy_film.world import FPS, SIZE

    data, carry = config["data"], None
    whole, rate = data["num_frames"], data.get("fps") or data.get("rates", (FPS,))[0]
    if data.get("middle") and config["model"]["transformer"]["num_frame_per_block"] == 1:
        carry = "latents"
    return Defaults(
        num_frames=max((stage["frames"] or whole for stage in config["stages"]), default=whole),
        height=SIZE,
        width=SIZE,
        fps=float(rate),
        inference_steps=25,
        guidance_scale=4.0,
        shift=config["flow_shift"],
        negative_prompt="",
        batch_size=8,
        carry=carry,
    )
