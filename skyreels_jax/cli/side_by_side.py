"""Single films in several settings, of the same captions from the same noise: made and judged."""

import argparse
import dataclasses
import json
import pathlib
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from skyreels_jax.cli import flags, kept_reports
from skyreels_jax.cli import settings as setting_flags
from skyreels_jax.core.errors import UserError

if TYPE_CHECKING:
    from skyreels_jax.data.toy_film.world import Scene
    from skyreels_jax.evals.suite import Report, Sample
    from skyreels_jax.pipelines.source import ModelSource
    from skyreels_jax.pipelines.validate import Request

# Flags that are options of `VideoModel.generate`, under the same names.
SAMPLING = ("num_frames", *flags.STEPS, "dtype", "batch_size")
OPTIONS = (*SAMPLING, *flags.WINDOWS)
BATCH = 16


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Asked:
    """A setting, its model before the weights, and the options of its films, checked."""

    name: str
    source: "ModelSource"
    request: "Request"
    options: dict[str, Any]


def ask(args: argparse.Namespace, scenes: "Sequence[Scene]") -> list[Asked]:
    """Returns every --setting, or that of the flags alone, named "films".

    Raises `UserError` for what cannot be made, judged or written; no weights are read.
    """
    from skyreels_jax.core import files
    from skyreels_jax.data.toy_film.captions import sentence
    from skyreels_jax.evals.judge import check_size
    from skyreels_jax.pipelines import load, validate

    if args.rows < 1:
        raise UserError(f"--rows must be 1 or more, got {args.rows}")
    args.batch_size = BATCH if args.batch_size is None else args.batch_size
    shared = flags.given_options(args, OPTIONS)
    if args.resolution is not None:
        shared["height"], shared["width"] = validate.parse_resolution(args.resolution)
    prompts = [sentence(scene, args.seed) for scene in scenes]  # like those of `evaluate`
    alone = [setting_flags.Setting(name="films", options={})]
    settings = setting_flags.parse_settings(args.setting or []) or alone
    asked = []
    for setting in settings:
        options = shared | setting.options
        try:
            source = load.find(options.pop("model", args.model))
            request = source.request(prompt=prompts, seed=args.seed, **options)
            check_size(request.num_frames, request.height, request.width)
        except UserError as error:
            said = f"setting {setting.name!r}: " if args.setting else ""
            raise UserError(f"{said}{error}") from None
        asked.append(Asked(name=setting.name, source=source, request=request, options=options))
    files.check_writable(args.outdir)
    return asked


def judged(
    args: argparse.Namespace,
    asked: Sequence[Asked],
    scenes: "Sequence[Scene]",
    *,
    rounds: int = 1,
) -> "Iterator[list[Report]]":
    """Makes and judges `rounds` films of each scene in every setting, one model in memory at a
    time; keeps the frames of those that `write` shows. Yields the reports so far when a setting is
    done, so that they can be written: an interruption takes only what is behind them.

    With --setting each is kept in OUTDIR/settings, and not made again when it is asked for again.
    """
    from tqdm import tqdm

    total = len(scenes) * rounds * len(asked)
    with tqdm(total=total, unit="film", disable=None, leave=False) as bar:
        reports: list[Report] = []
        for one in asked:
            bar.set_description(one.name)
            path = kept_reports.place(args, one, scenes, rounds) if args.setting else None
            report = None if path is None else kept_reports.read(path, scenes)
            if report is not None:
                print(f"{one.name}: made before, read from {path}", file=sys.stderr)
                bar.update(len(report.samples))
            else:
                report = _report(args, one, scenes, rounds, lambda _: bar.update())
                if path is not None:
                    kept_reports.write(path, report)
            reports.append(report)
            yield reports


def _report(
    args: argparse.Namespace,
    one: Asked,
    scenes: "Sequence[Scene]",
    rounds: int,
    progress: "Callable[[Sample], Any]",
) -> "Report":
    from skyreels_jax.evals.suite import evaluate

    model = one.source.load(dtype=one.request.dtype)

    def films(prompts, seeds):
        request = one.source.request(prompt=prompts, seed=seeds, **one.options)
        return (film.frames for film in model.films(request))

    more = {"seed": args.seed, "rounds": rounds, "keep": args.rows, "progress": progress}
    return evaluate(films, scenes, **more)


def write(
    args: argparse.Namespace,
    asked: Sequence[Asked],
    reports: "Sequence[Report]",
    said: dict[str, Any],
    *,
    plot: Callable[[pathlib.Path], None] | None = None,
) -> list[pathlib.Path]:
    """Writes NAME.json (`said` and every film), NAME.png with a `plot`, and NAME_sheet.png, the
    settings' films next to each other, into --outdir; returns where they are.
    """
    import imageio.v3 as iio

    from skyreels_jax.core.files import replacing, write_json
    from skyreels_jax.evals.sheet import contact_sheet

    asked, endings = asked[: len(reports)], [".json", ".png", "_sheet.png"]
    if plot is None:
        endings.remove(".png")
    paths = [args.outdir / f"{args.benchmark}{ending}" for ending in endings]
    films = {one.name: found.records() for one, found in zip(asked, reports, strict=True)}
    write_json(paths[0], {**said, "films": films})
    if plot is not None:
        with replacing(paths[1]) as path:
            plot(path)
    shown = [
        (one.name, sample)
        for samples in zip(*(found.samples[: args.rows] for found in reports), strict=True)
        for one, sample in zip(asked, samples, strict=True)
    ][: args.rows]
    image = contact_sheet([s.frames for _, s in shown], [f"{n}: {s.prompt}" for n, s in shown])
    with replacing(paths[-1]) as path:
        iio.imwrite(path, image, extension=".png")
    return paths


def told(one: Asked, summary: dict[str, Any]) -> dict[str, Any]:
    """Returns what is said of a setting: its model, how its films were made, what they show."""
    return {"model": one.source.model_id, "options": one.options, **summary}


def head(args: argparse.Namespace) -> dict[str, Any]:
    """Returns what is said of all settings at once."""
    return {"benchmark": args.benchmark, "prompts": args.prompts, "seed": args.seed}


def tell(
    args: argparse.Namespace, said: dict[str, Any], text: str, paths: Sequence[pathlib.Path]
) -> None:
    """Prints `text` and `paths`, or with --json what is said."""
    if args.json:
        print(json.dumps(said))
        return
    print(f"{text}\n")
    for path in paths:
        print(path)
