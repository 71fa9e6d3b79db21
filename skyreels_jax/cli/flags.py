"""Flags that several commands share: options of a request, under the official names."""

import argparse
import pathlib
from typing import Any

# Flags that are options of `VideoModel.generate`, under the same names.
STEPS = ("inference_steps", "guidance_scale", "shift", "solver", "schedule")
STEP_CACHE = ("teacache_thresh", "use_ret_steps", "force_teacache")  # with --teacache alone
SAMPLING = (
    *("negative_prompt", "num_frames", *STEPS, "fps"),
    *("seed", "dtype", "lora", "teacache", *STEP_CACHE),
)
GIVEN = ("image", "end_image", "video_path")
WINDOWS = (
    *("base_num_frames", "overlap_history", "addnoise_condition", "ar_step"),
    *("causal_block_size", "carry", "sink_frames"),
)


def add_given(group: Any) -> None:
    """Adds the flags of `GIVEN`: what films start from and lead to."""
    group.add_argument(
        "--image",
        type=pathlib.Path,
        metavar="FILE",
        help="what a film starts from (image-to-video and diffusion-forcing models); an upright "
        "one makes an upright film",
    )
    group.add_argument(
        "--end_image",
        type=pathlib.Path,
        metavar="FILE",
        help="what it leads to (diffusion-forcing models)",
    )
    group.add_argument(
        "--video_path",
        type=pathlib.Path,
        metavar="FILE",
        help="what it shows first and continues (diffusion-forcing models); --num_frames counts "
        "the last --overlap_history frames of it",
    )


def add_sampling(group: Any) -> None:
    """Adds --model_id, --resolution and the flags of `SAMPLING`."""
    group.add_argument(
        "--model_id",
        metavar="MODEL",
        help='"tiny" (default, shipped), a diffusers, official or checkpoint folder, or a hub id',
    )
    group.add_argument("--negative_prompt", metavar="TEXT", help="what to keep away from")
    group.add_argument(
        "--resolution", metavar="SIZE", help="256P, 360P, 540P, 720P or HEIGHTxWIDTH"
    )
    group.add_argument("--num_frames", type=int, metavar="N", help="4k + 1")
    add_steps(group)
    group.add_argument("--fps", type=float, metavar="X", help="frames per second")
    group.add_argument("--seed", type=int, metavar="N", help="of the initial noise (default 0)")
    group.add_argument("--dtype", metavar="TYPE", help="float32 or bfloat16 (default by device)")
    group.add_argument(
        "--lora",
        action="append",
        metavar="PATH[:SCALE]",
        help="an adapter and how strongly it acts (default 1); give it again for several",
    )
    onoff = argparse.BooleanOptionalAction
    group.add_argument("--teacache", action=onoff, help="skip the blocks where time changes little")
    group.add_argument(
        "--teacache_thresh",
        type=float,
        metavar="X",
        help="more: faster and worse (usual: 0.1 to 0.3)",
    )
    group.add_argument(
        "--use_ret_steps", action=onoff, help="always run five steps, then judge by modulation"
    )
    group.add_argument(
        "--force_teacache",
        action=onoff,
        help="for diffusion forcing too, where --teacache is refused",
    )


def add_steps(group: Any) -> None:
    """Adds the flags of `STEPS`."""
    group.add_argument("--inference_steps", type=int, metavar="N", help="denoising steps")
    group.add_argument("--guidance_scale", type=float, metavar="X", help="1 or less: no guidance")
    group.add_argument("--shift", type=float, metavar="X", help="more: more steps at high noise")
    group.add_argument("--solver", metavar="NAME", help="unipc (default) or euler")
    group.add_argument(
        "--schedule", metavar="NAME", help="whose noise levels: diffusers (default) or official"
    )


def add_windows(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of `WINDOWS`."""
    group = parser.add_argument_group("windows of long films (diffusion-forcing models)")
    group.add_argument(
        "--base_num_frames",
        type=int,
        metavar="N",
        help="frames of a window (default: the model's number of frames, 97; give 121 at 720P); "
        "with --carry cache: those that a block sees",
    )
    group.add_argument(
        "--overlap_history",
        type=int,
        metavar="N",
        help="frames that a window takes from the one before (17 or 37); with --carry cache: that "
        "the film takes from --video_path",
    )
    group.add_argument(
        "--addnoise_condition",
        type=float,
        metavar="X",
        help="noise on these, of 1000; smooths films (20, at most 50)",
    )
    group.add_argument(
        "--ar_step",
        type=int,
        metavar="N",
        help="steps by which a block of frames follows the one before (0: all at once)",
    )
    group.add_argument(
        "--causal_block_size", type=int, metavar="N", help="latent frames of a block (5)"
    )
    group.add_argument(
        "--carry",
        metavar="WHAT",
        help="from window to window: pixels, encoded again (official); latents; or cache, the keys "
        "and values of finished blocks, for causal models alone and their default (all of them are "
        "in the state of a stream: megabytes for small models, gigabytes for large ones)",
    )
    group.add_argument(
        "--sink_frames",
        type=int,
        metavar="N",
        help="latent frames at the start of the film that --carry cache never drops (0)",
    )


def given_options(args: argparse.Namespace, names: tuple[str, ...]) -> dict[str, Any]:
    """Returns the values of the flags among `names` that were given."""
    values = {name: getattr(args, name) for name in names}
    return {name: value for name, value in values.items() if value is not None}


def add_mesh(group: Any) -> None:
    """Adds --mesh."""
    group.add_argument(
        "--mesh",
        metavar="AXIS=N,...",
        help="devices that share a film: data (the sides of guidance, films side by side), context "
        "(tokens), tensor (heads), fsdp (weights), attention=ring; -1: all that are left, such as "
        "data=2,context=-1 (default: one makes it alone)",
    )


def mesh(text: str | None, source: Any, request: Any) -> Any:
    """Returns the `MeshConfig` of --mesh; `UserError` for one that the request does not fit."""
    if text is None:
        return None
    from skyreels_jax.core.config import from_dict
    from skyreels_jax.core.errors import UserError
    from skyreels_jax.parallel.mesh import MeshConfig
    from skyreels_jax.pipelines.divided import check_mesh

    parts = [part.strip().partition("=") for part in text.split(",")]
    values = {name: int(size) if _whole(size) else size for name, _, size in parts}
    if len(values) < len(parts) or not all(name and size for name, _, size in parts):
        raise UserError(f"--mesh {text!r} is not like data=2,context=-1, each axis once")
    config = from_dict(MeshConfig, values)
    check_mesh(config, source, request)
    return config


def _whole(text: str) -> bool:
    return text.removeprefix("-").isdecimal()
