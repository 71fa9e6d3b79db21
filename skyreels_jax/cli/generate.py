"""Makes films from sentences and images, with the flag names of the official repository.

Each film is an .mp4 with a .json beside it, from which --from makes the same film again. What is
not given is the model's own default. The whole request is checked before anything is loaded.

examples:
  skyreels-jax generate --prompt "A red ring glides slowly to the right, close-up." --seed 3
  skyreels-jax generate --prompts_file prompts.txt --num_frames 33 --outdir films --sheet
  skyreels-jax generate --from out/a-red-ring_seed3.json --guidance_scale 6 --overwrite
  skyreels-jax generate --model_id Skywork/SkyReels-V2-T2V-14B-540P-Diffusers --resolution 540P \\
      --num_frames 97 --inference_steps 50 --shift 8 --prompt "..."
  skyreels-jax generate --model_id Skywork/SkyReels-V2-I2V-14B-540P-Diffusers --image first.png \\
      --prompt "..."
"""

import argparse
import dataclasses
import pathlib
import sys
from typing import Any

from skyreels_jax.core.errors import UserError

NAME = "generate"
HELP = "make films from sentences"

# Flags that are options of `VideoModel.generate`, under the same names.
OPTIONS = (
    "prompt",
    "negative_prompt",
    "num_frames",
    "inference_steps",
    "guidance_scale",
    "shift",
    "fps",
    "seed",
    "dtype",
    "batch_size",
    "image",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of this command to `parser`."""
    content = parser.add_argument_group("what to film")
    what = content.add_mutually_exclusive_group(required=True)
    what.add_argument("--prompt", metavar="TEXT", help="a sentence")
    what.add_argument("--prompts_file", type=pathlib.Path, metavar="FILE", help="a prompt a line")
    what.add_argument(
        "--from",
        dest="recipe",
        type=pathlib.Path,
        metavar="FILM.json",
        help="make this film again, but for the flags given",
    )
    content.add_argument(
        "--image",
        type=pathlib.Path,
        metavar="FILE",
        help="what the films start from (image-to-video models); upright ones make upright films",
    )
    how = parser.add_argument_group("how")
    how.add_argument(
        "--model_id",
        metavar="MODEL",
        help='"tiny" (default, shipped), a diffusers, official or checkpoint folder, or a hub id',
    )
    how.add_argument("--negative_prompt", metavar="TEXT", help="what to keep away from")
    how.add_argument("--resolution", metavar="SIZE", help="540P, 720P or HEIGHTxWIDTH")
    how.add_argument("--num_frames", type=int, metavar="N", help="4k + 1")
    how.add_argument("--inference_steps", type=int, metavar="N", help="denoising steps")
    how.add_argument("--guidance_scale", type=float, metavar="X", help="1 or less: no guidance")
    how.add_argument("--shift", type=float, metavar="X", help="more: more steps at high noise")
    how.add_argument("--fps", type=float, metavar="X", help="frames per second")
    how.add_argument("--seed", type=int, metavar="N", help="of the initial noise (default 0)")
    how.add_argument("--dtype", metavar="TYPE", help="float32 or bfloat16 (default by device)")
    how.add_argument("--batch_size", type=int, metavar="N", help="films made side by side")
    where = parser.add_argument_group("where")
    where.add_argument("--outdir", type=pathlib.Path, default="out", help="default: %(default)s")
    where.add_argument("--format", choices=("mp4", "gif"), default="mp4", help="default: mp4")
    where.add_argument("--sheet", action="store_true", help="write a contact sheet as well")
    where.add_argument("--overwrite", action="store_true", help="replace films of the same name")


def run(args: argparse.Namespace) -> int:
    """Checks everything, then makes and saves the films one batch at a time."""
    from skyreels_jax.pipelines import files, film, load, prompts

    model_id, options, fingerprint, image_sha256 = gather(args)
    source = load.find(model_id)
    request = source.request(**options)
    if image_sha256 is not None and request.image.sha256 != image_sha256:
        raise UserError(
            f"{request.image.path!r} is not the image that film was made of; give --image FILE"
        )
    names = prompts.film_names(list(request.prompts), list(request.seeds))
    paths = [args.outdir / f"{name}.{args.format}" for name in names]
    sheet = args.outdir / f"{names[0]}.png" if args.sheet else None
    for path in [*paths, *map(film.sidecar_path, paths), *([sheet] if sheet else [])]:
        if path.exists() and not args.overwrite:
            raise UserError(f"{str(path)!r} exists; give --overwrite, another --outdir or --seed")
    film.film_writer(paths[0])
    files.check_writable(args.outdir)

    model = source.load(dtype=request.dtype)
    if fingerprint not in (None, source.fingerprint):
        print(f"note: {model_id} is not as it was when that film was made", file=sys.stderr)
    frames = []
    with progress_bar(total=model.steps(request)) as bar:
        for path, made in zip(paths, model.films(request, progress=bar.update), strict=True):
            made.save(path)
            frames.append(made.frames)
            bar.write(str(path))
    if sheet:
        write_sheet(sheet, frames, list(request.prompts))
        print(sheet)
    return 0


def gather(args: argparse.Namespace) -> tuple[str, dict[str, Any], str | None, str | None]:
    """Returns the model, the options of the request (those of --from, under the flags given), and
    what --from expects: the fingerprint of the weights and the hash of the image."""
    from skyreels_jax.pipelines import prompts, recipe, validate

    again = {} if args.recipe is None else dataclasses.asdict(recipe.read_recipe(args.recipe))
    options = {name: again[name] for name in (*OPTIONS, "height", "width") if name in again}
    for name in OPTIONS:
        if getattr(args, name) is not None:
            options[name] = getattr(args, name)
    if args.prompts_file is not None:
        options["prompt"] = prompts.read_prompts(args.prompts_file)
    if args.resolution is not None:
        options["height"], options["width"] = validate.parse_resolution(args.resolution)
    fingerprint = again.get("fingerprint") if args.model_id is None else None
    image_sha256 = again.get("image_sha256") if args.image is None else None
    if image_sha256 is not None and options["image"] is None:
        raise UserError(
            f"the image of {str(args.recipe)!r} was handed over in Python; give --image FILE"
        )
    return args.model_id or again.get("model_id", "tiny"), options, fingerprint, image_sha256


def progress_bar(*, total: int):
    """Returns a bar over all denoising steps; silent where stderr is no terminal."""
    from tqdm import tqdm

    return tqdm(total=total, unit="step", disable=None, leave=False)


def write_sheet(path: pathlib.Path, films: list, captions: list[str]) -> None:
    """Writes a contact sheet: a film a row, its prompt under it."""
    import imageio.v3 as iio

    from skyreels_jax.evals.sheet import contact_sheet
    from skyreels_jax.pipelines.files import replacing

    with replacing(path) as temporary:
        iio.imwrite(temporary, contact_sheet(films, captions), extension=".png")
