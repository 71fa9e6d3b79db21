"""Makes films from captions of ToyFilm scenes and judges their pixels.

--benchmark clips (the default) judges single films against their captions. The others need a
diffusion-forcing model and compare settings side by side, each a --setting:
  drift      long films, second by second: adherence, the subject's colour, brightness
  story      films whose prompt changes: each part against its own prompt, beside single clips
  schedules  the same films made synchronously, asynchronously, ...: quality and cost
Two judge single films as well, of one or more settings beside each other:
  concepts   by the value of an attribute that was asked for (--by): what a model does worst, and
             what changed it
  motion     several --seeds of each caption: errors of motion, and the other axes, with what every
             setting changes of the first
Their settings are kept in OUTDIR/settings: with the same --outdir and options, the command goes on
where it was stopped, and makes of more settings only those that are new.
One judges a reward model (--model), not films:
  reward     --pairs it never saw: accuracy, calibration, ROC; scores by strength of distortion;
             --left_out models on the kind they were not shown; agreement on --films with the judge
--outdir receives NAME.json (all results; "results.json" of clips), NAME.png (a plot, but for
clips and concepts) and a contact sheet.

--prompts is a file with one structured caption (SkyCaptioner JSON) a line, three for a story, or a
built-in set: held_out (captions never trained on) or held_out_combinations (pairs of attributes
never trained on together).

examples:
  skyreels-jax evaluate --model tiny --prompts held_out --num 128 --outdir eval
  skyreels-jax evaluate --model runs/toy/model --prompts prompts.jsonl --json
  skyreels-jax evaluate --benchmark concepts --by shape --num 384 \\
      --setting "before: model=runs/toy/unbalanced/export" \\
      --setting "after: model=runs/toy/sft/export"
  skyreels-jax evaluate --benchmark motion --num 256 --seeds 3 \\
      --setting "before: model=runs/toy/found/export" \\
      --setting "after: model=runs/toy/flow_dpo/export"
  skyreels-jax evaluate --benchmark drift --model runs/toy/diffusion_forcing/export
  skyreels-jax evaluate --benchmark drift --setting "latents: carry=latents" \\
      --setting "pixels: carry=pixels addnoise_condition=20"
  skyreels-jax evaluate --benchmark story --change direction,speed,camera_motion,lighting
  skyreels-jax evaluate --benchmark schedules --setting "synchronous: ar_step=0" \\
      --setting "asynchronous: ar_step=5 causal_block_size=3" \\
      --setting "causal: model=runs/toy/causal/export"
  skyreels-jax evaluate --benchmark reward --model runs/toy/reward --pairs runs/pairs --films tiny
"""

import argparse
import pathlib
from typing import TYPE_CHECKING, Any

from skyreels_jax.cli import flags
from skyreels_jax.core.errors import UserError

if TYPE_CHECKING:
    from skyreels_jax.cli.side_by_side import Asked
    from skyreels_jax.evals.suite import Report

NAME = "evaluate"
HELP = "judge a model's films against their captions, or a reward model"

BENCHMARKS = ("clips", "drift", "story", "schedules", "concepts", "motion", "reward")
ONLY = {  # flags that not all benchmarks have
    "num_frames": ("clips", "concepts", "motion"),
    "batch_size": ("clips", "story", "concepts", "motion", "reward"),
    "windows": ("drift", "story", "schedules"),
    "setting": ("drift", "story", "schedules", "concepts", "motion"),
    "change": ("story",),
    "by": ("concepts",),
    "seeds": ("motion",),
    "pairs": ("reward",),
    "left_out": ("reward",),
    "films": ("reward",),
    "per_prompt": ("reward",),
}
FLAGS = {"batch_size": "batch"}  # where they are called otherwise


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of this command to `parser`."""
    parser.add_argument(
        "--benchmark", choices=BENCHMARKS, default="clips", help="see above (default: clips)"
    )
    what = parser.add_argument_group("what to judge")
    what.add_argument(
        "--model",
        "--model_id",
        dest="model",
        default="tiny",
        help='"tiny" (default, shipped), a model or run folder, or a hub id',
    )
    what.add_argument(
        "--prompts",
        default="held_out",
        metavar="FILE|SPLIT",
        help="a .jsonl file, held_out (default) or held_out_combinations",
    )
    what.add_argument(
        "--num",
        type=int,
        metavar="N",
        help="films or stories (default: 128 clips, 8, or the file); of reward, scenes (32); of "
        "motion, captions (256)",
    )
    what.add_argument(
        "--by", metavar="ATTRIBUTE", help="concepts: what its values are (default: shape)"
    )
    what.add_argument(
        "--seeds", type=int, metavar="N", help="motion: films of each caption (default 3)"
    )
    what.add_argument("--seed", type=int, default=0, help="of scenes, wordings and noise")
    add_long(parser.add_argument_group("several settings, and long films"))
    add_reward(parser.add_argument_group("reward models: reward"))
    how = parser.add_argument_group("how films are made, in all settings")
    how.add_argument(
        "--batch",
        dest="batch_size",
        type=int,
        metavar="N",
        help="clips made side by side (default 16)",
    )
    how.add_argument("--resolution", metavar="SIZE", help="HEIGHTxWIDTH, a multiple of 64x64")
    how.add_argument("--num_frames", type=int, metavar="N", help="of clips, 4k + 1")
    flags.add_steps(how)
    how.add_argument("--dtype", metavar="TYPE", help="float32 or bfloat16 (default by device)")
    flags.add_windows(parser)
    where = parser.add_argument_group("where")
    where.add_argument("--outdir", type=pathlib.Path, default="eval", help="default: %(default)s")
    where.add_argument("--rows", type=int, default=12, help="films on the sheet (default 12)")
    where.add_argument("--json", action="store_true", help="print one JSON object, no table")


def add_long(group: Any) -> None:
    """Adds the flags of the benchmarks of long films."""
    group.add_argument(
        "--windows",
        type=int,
        metavar="N",
        help="how long, in base windows (default: 10; schedules: 4)",
    )
    group.add_argument(
        "--setting",
        action="append",
        metavar='"NAME: OPTION=VALUE ..."',
        help="one of those that are compared; give it again for each. Options: inference_steps, "
        "guidance_scale, shift, solver, schedule, the flags of windows below, and model (default: "
        "carried latents beside pixels; schedules: synchronous beside asynchronous; others: "
        "--model alone)",
    )
    group.add_argument(
        "--change",
        metavar="LIST",
        help="attributes that change from part to part of a story, or all "
        "(default: direction,speed,camera_motion)",
    )


def add_reward(group: Any) -> None:
    """Adds the flags of the benchmark of reward models."""
    group.add_argument(
        "--pairs",
        type=pathlib.Path,
        metavar="FOLDER",
        help="labelled pairs (`skyreels-jax data pairs`): those held out, if some are, else all",
    )
    group.add_argument(
        "--left_out",
        type=pathlib.Path,
        metavar="FOLDER",
        help="of reward models that were each trained without some kinds of pairs "
        "(data.left_out): they are judged by these",
    )
    group.add_argument(
        "--films",
        metavar="MODEL",
        help="a model whose films are scored by reward and judge, several for each of those "
        "of --num scenes whose subject moves",
    )
    group.add_argument(
        "--per_prompt", type=int, metavar="N", help="films of each scene (default 4)"
    )


def run(args: argparse.Namespace) -> int:
    """Checks everything, then makes, judges and reports."""
    for name, legal in ONLY.items():
        if getattr(args, name) is not None and args.benchmark not in legal:
            raise UserError(f"--{FLAGS.get(name, name)} is for --benchmark {' or '.join(legal)}")
    if args.benchmark == "clips":
        return clips(args)
    if args.benchmark == "concepts":
        from skyreels_jax.cli import concepts

        return concepts.run(args)
    if args.benchmark == "motion":
        from skyreels_jax.cli import motion

        return motion.run(args)
    if args.benchmark == "reward":
        from skyreels_jax.cli import reward_benchmark

        return reward_benchmark.run(args)
    from skyreels_jax.cli import benchmarks

    return benchmarks.run(args)


def clips(args: argparse.Namespace) -> int:
    """Judges single films against their captions."""
    from skyreels_jax.cli import side_by_side
    from skyreels_jax.evals.suite import load_scenes

    scenes = load_scenes(args.prompts, args.num, seed=args.seed)
    asked = side_by_side.ask(args, scenes)
    ((report,),) = side_by_side.judged(args, asked, scenes)
    write(report, asked[0], args)
    return 0


def write(report: "Report", one: "Asked", args: argparse.Namespace) -> None:
    """Writes results.json and sheet.png into --outdir and prints the summary."""
    import json

    import imageio.v3 as iio

    from skyreels_jax.cli.side_by_side import told
    from skyreels_jax.core.files import replacing, write_json
    from skyreels_jax.evals.sheet import contact_sheet

    head = {"prompts": args.prompts, "seed": args.seed, **told(one, report.summary())}
    write_json(args.outdir / "results.json", {**head, "films": report.records()})
    shown = report.samples[: args.rows]
    image = contact_sheet([s.frames for s in shown], [s.prompt for s in shown])
    with replacing(args.outdir / "sheet.png") as path:
        iio.imwrite(path, image, extension=".png")
    if args.json:
        print(json.dumps(head))
    else:
        print(f"{report.table()}\n\n{args.outdir / 'results.json'}\n{args.outdir / 'sheet.png'}")
