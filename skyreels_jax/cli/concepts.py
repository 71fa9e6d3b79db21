"""`evaluate --benchmark concepts`: single films of one or more settings, concept by concept."""

import argparse
import json
from typing import TYPE_CHECKING, Any

from skyreels_jax.cli import flags
from skyreels_jax.cli.settings import SAMPLING, Setting, parse_settings
from skyreels_jax.core.errors import UserError

if TYPE_CHECKING:
    from skyreels_jax.evals.concepts import Concepts

OPTIONS = ("num_frames", *SAMPLING, "dtype", "batch_size", *flags.WINDOWS)
BATCH = 16
BY = "shape"


def run(args: argparse.Namespace) -> int:
    """Checks everything, then makes and judges the same captions in every setting."""
    from tqdm import tqdm

    from skyreels_jax.data.toy_film.captions import sentence
    from skyreels_jax.evals.concepts import Concepts, check_attribute
    from skyreels_jax.evals.suite import evaluate, load_scenes
    from skyreels_jax.pipelines import files

    if args.rows < 1:
        raise UserError(f"--rows must be 1 or more, got {args.rows}")
    args.by = check_attribute(BY if args.by is None else args.by)
    scenes = load_scenes(args.prompts, args.num, seed=args.seed)
    args.batch_size = BATCH if args.batch_size is None else args.batch_size
    # All is checked, on prompts like those that `evaluate` will ask for, before anything is loaded.
    prompts = [sentence(scene, args.seed) for scene in scenes]
    asked = _ask(args, prompts)
    files.check_writable(args.outdir)
    found = []
    with tqdm(total=len(scenes) * len(asked), unit="film", disable=None, leave=False) as bar:
        for setting, source, options in asked:
            bar.set_description(setting.name)
            model = source.load(dtype=source.request(prompt=prompts, **options).dtype)

            def films(prompts, seeds, source=source, options=options, model=model):
                request = source.request(prompt=prompts, seed=seeds, **options)
                return (film.frames for film in model.films(request))

            report = evaluate(films, scenes, seed=args.seed, progress=lambda _: bar.update())
            found.append(Concepts(name=setting.name, attribute=args.by, report=report))
            del model  # its memory, before the next one's
    models = {setting.name: source.model_id for setting, source, _ in asked}
    _write(args, found, {name: {"model": models[name]} for name in models})
    return 0


def _ask(
    args: argparse.Namespace, prompts: list[str]
) -> "list[tuple[Setting, Any, dict[str, Any]]]":
    """Returns every setting with its model, not loaded yet, and the options of its films."""
    from skyreels_jax.evals.judge import check_size
    from skyreels_jax.pipelines import load, validate

    shared = flags.given_options(args, OPTIONS)
    if args.resolution is not None:
        shared["height"], shared["width"] = validate.parse_resolution(args.resolution)
    settings = parse_settings(args.setting or []) or [Setting(name="films", options={})]
    asked = []
    for setting in settings:
        options = shared | setting.options
        try:
            source = load.find(options.pop("model", args.model))
            request = source.request(prompt=prompts, seed=args.seed, **options)
            check_size(request.num_frames, request.height, request.width)
        except UserError as error:
            raise UserError(f"setting {setting.name!r}: {error}") from None
        asked.append((setting, source, options))
    return asked


def _write(args: argparse.Namespace, found: "list[Concepts]", about: dict[str, Any]) -> None:
    """Writes concepts.json and concepts_sheet.png into --outdir and prints the table."""
    import imageio.v3 as iio

    from skyreels_jax.evals.concepts import table, verdict
    from skyreels_jax.evals.sheet import contact_sheet
    from skyreels_jax.pipelines.files import replacing

    said = {"benchmark": "concepts", "by": args.by, "prompts": args.prompts, "seed": args.seed}
    said["settings"] = {one.name: about[one.name] | {"concepts": one.summary()} for one in found}
    said["against"] = {one.name: verdict(found[0], one) for one in found[1:]}
    films = {one.name: one.report.records() for one in found}
    with replacing(args.outdir / "concepts.json") as path:
        path.write_text(json.dumps({**said, "films": films}, indent=1) + "\n")
    pairs = [
        (one.name, s)
        for samples in zip(*(o.report.samples for o in found), strict=True)
        for one, s in zip(found, samples, strict=True)
    ][: args.rows]
    image = contact_sheet([s.frames for _, s in pairs], [f"{n}: {s.prompt}" for n, s in pairs])
    with replacing(args.outdir / "concepts_sheet.png") as path:
        iio.imwrite(path, image, extension=".png")
    if args.json:
        print(json.dumps(said))
        return
    print(f"{table(found)}\n")
    for ending in (".json", "_sheet.png"):
        print(args.outdir / f"concepts{ending}")
