"""Write what a chain of training runs came to: a page with the curves of their losses, the judge's
scores after each of them, and contact sheets.

A run NAME is judged by `skyreels-jax evaluate --model RUN/export --outdir EVALS/NAME`; runs that
were not (a VAE) have their curve alone.

examples:
  skyreels-jax report runs/toy/vae runs/toy/pretrain runs/toy/stories --evals eval --outdir report
"""

import argparse
import csv
import json
import pathlib
import shutil
from typing import Any, NamedTuple

from skyreels_jax.core.errors import UserError

NAME = "report"
HELP = "write what a chain of training runs came to: losses, the judge's scores, contact sheets"
MINUTE = 60_000  # milliseconds


class Run(NamedTuple):
    """A training run: its loss by step, how long its steps took, what the judge said of it."""

    name: str
    steps: list[int]
    losses: list[float]
    minutes: float
    judged: dict[str, Any] | None
    sheet: pathlib.Path | None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the flags of `skyreels-jax report`."""
    parser.add_argument("runs", nargs="+", type=pathlib.Path, metavar="RUN", help="in their order")
    parser.add_argument(
        "--evals",
        type=pathlib.Path,
        metavar="DIR",
        help="where DIR/NAME/results.json is what `evaluate` found of run NAME",
    )
    parser.add_argument(
        "--outdir",
        type=pathlib.Path,
        default=pathlib.Path("report"),
        help="for report.md and its pictures (default: %(default)s)",
    )


def run(args: argparse.Namespace) -> int:
    """Reads everything, then writes the page."""
    from skyreels_jax.core.files import check_writable, replacing
    from skyreels_jax.evals import report_plots

    runs = [read_run(folder, args.evals) for folder in args.runs]
    if len({one.name for one in runs}) < len(runs):
        raise UserError("report: two runs have one name; legal: folders that are called otherwise")
    check_writable(args.outdir)
    curves = {one.name: (one.steps, one.losses) for one in runs}
    with replacing(args.outdir / "losses.png") as path:
        report_plots.plot_losses(path, curves)
    scores = {one.name: one.judged["adherence"] for one in runs if one.judged}
    if scores:
        with replacing(args.outdir / "scores.png") as path:
            report_plots.plot_scores(path, scores)
    for one in runs:
        if one.sheet is not None:
            shutil.copyfile(one.sheet, args.outdir / f"{one.name}_sheet.png")
    with replacing(args.outdir / "report.md") as path:
        path.write_text(page(runs))
    print(args.outdir / "report.md")
    return 0


def read_run(folder: pathlib.Path, evals: pathlib.Path | None) -> Run:
    """Returns what a run measured, and what was found of it under `evals`.

    Raises `UserError` for a folder that is no run, and for results of another benchmark.
    """
    try:
        with (folder / "metrics.csv").open(newline="") as file:
            rows = [row for row in csv.DictReader(file) if row.get("loss")]
    except OSError as error:
        raise UserError(f"{folder} is no training run: {error}") from None
    if not rows:
        raise UserError(f"{folder}/metrics.csv has no losses yet")
    steps = [int(row["step"]) for row in rows]
    widths = [after - before for before, after in zip([0, *steps], steps, strict=False)]
    took = [float(row.get("ms_per_step") or 0) for row in rows]
    minutes = sum(n * ms for n, ms in zip(widths, took, strict=True)) / MINUTE
    losses = [float(row["loss"]) for row in rows]
    judged, sheet = None, None
    name = folder.resolve().name
    if evals is not None and (found := evals / name / "results.json").is_file():
        judged = json.loads(found.read_text())
        sheet = picture if (picture := evals / name / "sheet.png").is_file() else None
        if not {"num", "adherence", "all_right", "consistency", "quality"} <= judged.keys():
            raise UserError(f"{found}: legal are results of `evaluate --benchmark clips`")
    return Run(name, steps, losses, minutes, judged, sheet)


def page(runs: list[Run]) -> str:
    """Returns the page, in Markdown."""
    lines = ["# What the training came to", ""]
    lines += ["| run | steps | minutes of steps | loss, at first | at last |"]
    lines += ["|---|---|---|---|---|"]
    for one in runs:
        losses = f"{one.losses[0]:.4g} | {one.losses[-1]:.4g}"
        lines.append(f"| {one.name} | {one.steps[-1]:,} | {one.minutes:.0f} | {losses} |")
    lines += ["", "![Losses by step](losses.png)"]
    if judged := {one.name: one.judged for one in runs if one.judged}:
        films = max(found["num"] for found in judged.values())
        lines += ["", f"What the judge says of {films} films of each:", "", *_scores(judged)]
        lines += ["", "![The judge's scores after each run](scores.png)"]
    for one in runs:
        if one.sheet is not None:
            lines += ["", f"## {one.name}", "", f"![Films of {one.name}]({one.name}_sheet.png)"]
    return "\n".join(lines) + "\n"


def _scores(judged: dict[str, dict[str, Any]]) -> list[str]:
    """Returns the lines of a table of what the judge says of films of each run."""
    attributes = list(next(iter(judged.values()))["adherence"])
    names = [one.replace("_", " ") for one in attributes]
    lines = [f"| films of | {' | '.join(names)} | all at once | consistency | quality, dB |"]
    lines += ["|---" * (len(names) + 4) + "|"]
    for name, found in judged.items():
        values = [found["adherence"][one] for one in attributes]
        values += [found["all_right"], found["consistency"], found["quality"]]
        forms = [".3f"] * (len(values) - 1) + [".1f"]
        told = ["" if v is None else format(v, form) for v, form in zip(values, forms, strict=True)]
        lines.append(f"| {name} | {' | '.join(told)} |")
    return lines
