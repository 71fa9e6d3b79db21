"""Makes films from captions of ToyFilm scenes and judges their pixels.

--prompts is a file with one structured caption (SkyCaptioner JSON) a line, or a built-in set:
held_out (captions never trained on) or held_out_combinations (pairs of attributes never trained on
together). --outdir receives results.json (every verdict) and sheet.png.

examples:
  skyreels-jax evaluate --model tiny --prompts held_out --num 128 --outdir eval
  skyreels-jax evaluate --model runs/toy/model --prompts prompts.jsonl --json
"""

import argparse
import pathlib

from skyreels_jax.core.errors import UserError

NAME = "evaluate"
HELP = "judge a model's films against their captions"

# Flags that are options of `VideoModel.generate`, under the same names.
OPTIONS = ("num_frames", "inference_steps", "guidance_scale", "shift", "dtype", "batch_size")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of this command to `parser`."""
    parser.add_argument(
        "--model",
        "--model_id",
        dest="model",
        default="tiny",
        help='"tiny" (default, shipped), a model or run folder, or a hub id',
    )
    parser.add_argument(
        "--prompts",
        default="held_out",
        metavar="FILE|SPLIT",
        help="a .jsonl file, held_out (default) or held_out_combinations",
    )
    parser.add_argument("--num", type=int, metavar="N", help="films (default: 128, or the file)")
    parser.add_argument("--seed", type=int, default=0, help="of scenes, wordings and noise")
    parser.add_argument(
        "--batch",
        dest="batch_size",
        type=int,
        default=16,
        metavar="N",
        help="films made side by side (default %(default)s)",
    )
    parser.add_argument("--resolution", metavar="SIZE", help="HEIGHTxWIDTH, a multiple of 64x64")
    parser.add_argument("--num_frames", type=int, metavar="N", help="4k + 1")
    parser.add_argument("--inference_steps", type=int, metavar="N", help="denoising steps")
    parser.add_argument("--guidance_scale", type=float, metavar="X", help="1 or less: no guidance")
    parser.add_argument("--shift", type=float, metavar="X", help="more: more steps at high noise")
    parser.add_argument("--dtype", metavar="TYPE", help="float32 or bfloat16 (default by device)")
    parser.add_argument("--outdir", type=pathlib.Path, default="eval", help="default: %(default)s")
    parser.add_argument("--rows", type=int, default=12, help="films on the sheet (default 12)")
    parser.add_argument("--json", action="store_true", help="print one JSON object, no table")


def run(args: argparse.Namespace) -> int:
    """Checks everything, then makes, judges and reports."""
    from skyreels_jax.data.toy_film.captions import sentence
    from skyreels_jax.evals.judge import check_size
    from skyreels_jax.evals.suite import evaluate, load_scenes
    from skyreels_jax.pipelines import files, load, validate

    if args.rows < 1:
        raise UserError(f"--rows must be 1 or more, got {args.rows}")
    scenes = load_scenes(args.prompts, args.num, seed=args.seed)
    options = {name: getattr(args, name) for name in OPTIONS if getattr(args, name) is not None}
    if args.resolution is not None:
        options["height"], options["width"] = validate.parse_resolution(args.resolution)
    source = load.find(args.model)
    # All is checked, on prompts like those that `evaluate` will ask for, before anything is loaded.
    prompts = [sentence(scene, args.seed) for scene in scenes]
    request = source.request(prompt=prompts, seed=args.seed, **options)
    check_size(request.num_frames, request.height, request.width)
    files.check_writable(args.outdir)
    model = source.load(dtype=request.dtype)

    from tqdm import tqdm

    with tqdm(total=len(scenes), unit="film", disable=None, leave=False) as bar:

        def films(prompts, seeds):
            request = source.request(prompt=prompts, seed=seeds, **options)
            return (film.frames for film in model.films(request))

        report = evaluate(films, scenes, seed=args.seed, progress=lambda _: bar.update())
    write(report, args)
    return 0


def write(report, args: argparse.Namespace) -> None:
    """Writes results.json and sheet.png into --outdir and prints the summary."""
    import json

    import imageio.v3 as iio

    from skyreels_jax.evals.sheet import contact_sheet
    from skyreels_jax.pipelines.files import replacing

    settings = {name: value for name, value in vars(args).items() if name in (*OPTIONS, "seed")}
    head = {"model": args.model, "prompts": args.prompts, **settings, **report.summary()}
    with replacing(args.outdir / "results.json") as path:
        path.write_text(json.dumps({**head, "films": report.records()}, indent=1) + "\n")
    shown = report.samples[: args.rows]
    image = contact_sheet([s.frames for s in shown], [s.prompt for s in shown])
    with replacing(args.outdir / "sheet.png") as path:
        iio.imwrite(path, image, extension=".png")
    if args.json:
        print(json.dumps(head))
    else:
        print(f"{report.table()}\n\n{args.outdir / 'results.json'}\n{args.outdir / 'sheet.png'}")
