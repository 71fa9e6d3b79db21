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
  skyreels-jax generate --model_id Skywork/SkyReels-V2-DF-14B-540P-Diffusers --resolution 540P \\
      --num_frames 257 --overlap_history 17 --addnoise_condition 20 --prompt "..."
"""

import argparse
import dataclasses
import pathlib
import sys
from typing import Any

from skyreels_jax.cli import flags
from skyreels_jax.core.errors import UserError

NAME = "generate"
HELP = "make films from sentences"

# Flags that are options of `VideoModel.generate`, under the same names.
OPTIONS = ("prompt", *flags.SAMPLING, "batch_size", *flags.GIVEN, *flags.WINDOWS)


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
    flags.add_given(content)
    how = parser.add_argument_group("how")
    flags.add_sampling(how)
    flags.add_mesh(how)
    how.add_argument("--batch_size", type=int, metavar="N", help="films made side by side")
    flags.add_windows(parser)
    where = parser.add_argument_group("where")
    where.add_argument("--outdir", type=pathlib.Path, default="out", help="default: %(default)s")
    where.add_argument("--format", choices=("mp4", "gif"), default="mp4", help="default: mp4")
    where.add_argument("--sheet", action="store_true", help="write a contact sheet as well")
    where.add_argument("--overwrite", action="store_true", help="replace films of the same name")


def run(args: argparse.Namespace) -> int:
    """Checks everything, then makes and saves the films one batch at a time."""
    from skyreels_jax.core import files
    from skyreels_jax.evals.sheet import shown_frames
    from skyreels_jax.pipelines import film, load, prompts

    model_id, options, fingerprint, given = gather(args)
    source = load.find(model_id)
    request = source.request(**options)
    for flag, sha256 in given.items():
        found = request.video if flag == "video_path" else getattr(request, flag)
        if found.sha256 != sha256:
            raise UserError(
                f"{found.path!r} is not the {flag.removesuffix('_path')} that film was made of; "
                f"give --{flag} FILE"
            )
    names = prompts.film_names(list(request.prompts), list(request.seeds))
    paths = [args.outdir / f"{name}.{args.format}" for name in names]
    sheet = args.outdir / f"{names[0]}.png" if args.sheet else None
    for path in [*paths, *map(film.sidecar_path, paths), *([sheet] if sheet else [])]:
        if path.exists() and not args.overwrite:
            raise UserError(f"{str(path)!r} exists; give --overwrite, another --outdir or --seed")
    mesh = flags.mesh(args.mesh, source, request)
    film.film_writer(paths[0])
    files.check_writable(args.outdir)

    model = source.load(dtype=request.dtype, mesh=mesh)
    if fingerprint not in (None, source.fingerprint):
        print(f"note: {model_id} is not as it was when that film was made", file=sys.stderr)
    shown = []
    with progress_bar(total=model.steps(request)) as bar:
        for path, made in zip(paths, model.films(request, progress=bar.update), strict=True):
            made.save(path)
            if sheet:
                shown.append(shown_frames(made.frames))
            bar.write(str(path))
    if sheet:
        write_sheet(sheet, shown, list(request.prompts))
        print(sheet)
    return 0


def gather(args: argparse.Namespace) -> tuple[str, dict[str, Any], str | None, dict[str, str]]:
    """Returns the model, the options of the request (those of --from, under the flags given), and
    what --from expects: the fingerprint of the weights, and hashes of what was given by flag."""
    from skyreels_jax.pipelines import prompts, recipe, validate

    again = {} if args.recipe is None else dataclasses.asdict(recipe.read_recipe(args.recipe))
    options = {name: again[name] for name in (*OPTIONS, "height", "width") if name in again}
    said = flags.given_options(args, OPTIONS)
    if not said.get("teacache", options.get("teacache")):
        options = {name: value for name, value in options.items() if name not in flags.STEP_CACHE}
    options |= said
    if args.prompts_file is not None:
        options["prompt"] = prompts.read_prompts(args.prompts_file)
    if args.resolution is not None:
        options["height"], options["width"] = validate.parse_resolution(args.resolution)
    fingerprint = again.get("fingerprint") if args.model_id is None else None
    given = {}
    for flag in flags.GIVEN:
        sha256 = again.get(f"{flag.removesuffix('_path')}_sha256")
        if sha256 is None or getattr(args, flag) is not None:
            continue
        if options[flag] is None:
            raise UserError(
                f"the {flag.removesuffix('_path')} of {str(args.recipe)!r} was handed over in "
                f"Python; give --{flag} FILE"
            )
        given[flag] = sha256
    return args.model_id or again.get("model_id", "tiny"), options, fingerprint, given


def progress_bar(*, total: int):
    """Returns a bar over all denoising steps; silent where stderr is no terminal."""
    from tqdm import tqdm

    return tqdm(total=total, unit="step", disable=None, leave=False)


def write_sheet(path: pathlib.Path, films: list, captions: list[str]) -> None:
    """Writes a contact sheet: a film a row, its prompt under it."""
    import imageio.v3 as iio

    from skyreels_jax.core.files import replacing
    from skyreels_jax.evals.sheet import contact_sheet

    with replacing(path) as temporary:
        iio.imwrite(temporary, contact_sheet(films, captions), extension=".png")
