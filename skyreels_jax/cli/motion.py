"""`evaluate --benchmark motion`: errors of motion in one or more settings, and the other axes."""

import argparse
import functools
import pathlib

from skyreels_jax.cli import side_by_side
from skyreels_jax.core.errors import UserError

NUM, SEEDS = 256, 3
TITLE = "Motion: {num} {prompts} captions, {seeds} seeds each; 95 % intervals over captions"


def run(args: argparse.Namespace) -> int:
    """Checks everything, then makes and judges the same captions and noise in every setting."""
    from skyreels_jax.data.toy_film.world import SPLITS
    from skyreels_jax.evals.motion_plots import plot_motion
    from skyreels_jax.evals.motion_report import MotionReport, table, verdict
    from skyreels_jax.evals.suite import load_scenes

    seeds = SEEDS if args.seeds is None else args.seeds
    if seeds < 1:
        raise UserError(f"--seeds must be 1 or more, got {seeds}")
    few = NUM if args.prompts in SPLITS and args.num is None else args.num
    scenes = load_scenes(args.prompts, few, seed=args.seed)
    asked = side_by_side.ask(args, scenes)
    prompts = pathlib.Path(args.prompts).name.replace("_", "-")
    headline = TITLE.format(num=len(scenes), seeds=seeds, prompts=prompts)
    for reports in side_by_side.judged(args, asked, scenes, rounds=seeds):
        found = [
            MotionReport(name=one.name, captions=len(scenes), report=report)
            for one, report in zip(asked, reports, strict=False)
        ]
        settings = {
            one.name: side_by_side.told(one, motion.summary())
            for one, motion in zip(asked, found, strict=False)
        }
        against = {one.name: verdict(found[0], one) for one in found[1:]}
        said = {"num": len(scenes), "seeds": seeds, "settings": settings, "against": against}
        said = side_by_side.head(args) | said
        plot = functools.partial(plot_motion, settings=found, headline=headline)
        paths = side_by_side.write(args, asked, reports, said, plot=plot)
    side_by_side.tell(args, said, table(found), paths)
    return 0
