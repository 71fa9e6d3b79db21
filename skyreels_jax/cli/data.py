"""Renders ToyFilm, shows it, measures its judge, and makes pairs that differ in motion alone.

encode makes training data of people's own videos: a model's latents of them and text states of
their captions, on which `train` trains a transformer by itself (`data.features`).

pairs writes PREFERENCES, a dataset of clips and of distorted twins of them; label-sheet puts some
of its pairs on a page on which people say which clip moves better, and import-labels writes the
dataset again with what they say.

examples:
  skyreels-jax data show --num 8 --outdir out
  skyreels-jax data build --data_dir ~/tensorflow_datasets --num_clips 4096 --num_frames 33
  skyreels-jax data judge --num 200 --noise 8
  skyreels-jax data twins --outdir out
  skyreels-jax data pairs --data_dir data --num_clips 512
  skyreels-jax data film-pairs --model runs/toy/found/export --guidance_scale 1 --data_dir data
  skyreels-jax data label-sheet --pairs data/preferences/NAME/1.0.0 --num 40 --outdir out
  skyreels-jax data encode --videos clips --model Skywork/SkyReels-V2-DF-1.3B-540P-Diffusers \
      --resolution 540p --num_frames 97 --data_dir features
  skyreels-jax data import-labels --labels ann.jsonl --labels bob.csv --pairs ... --data_dir data
"""

import argparse
import pathlib

from skyreels_jax.cli import encode, preferences
from skyreels_jax.core.errors import UserError

NAME = "data"
HELP = "render ToyFilm, measure its judge; encode own videos; make pairs and collect labels"


# What each action reads, with its default.
ACTIONS = {
    "build": {"data_dir": pathlib.Path("data"), "num_clips": 4096, "num_frames": 33, "seed": 0},
    "show": {
        "outdir": pathlib.Path("out"),
        "split": "train",
        "num": 8,
        "num_frames": 33,
        "seed": 0,
    },
    "judge": {"noise": 0.0, "num": 200, "num_frames": 33, "seed": 0},
    **encode.ACTIONS,
    **preferences.ACTIONS,
}
LEAST = {"seed": 0, "num": 1, "num_frames": 5, "num_clips": 1}
TOLD_LATER = ("build", "encode")  # what they make says itself which num_frames are legal


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the action and its flags to `parser`."""
    parser.add_argument(
        "action",
        metavar="ACTION",
        choices=ACTIONS,
        help="build: render the TFDS dataset; show: write a contact sheet of fresh films; "
        "judge: print the judge's accuracy on fresh films of known truth; "
        "encode: make features of own videos; "
        "twins: write a contact sheet of distorted twins; pairs: write the TFDS dataset of "
        "preferences; film-pairs: the same of a model's own films, which the judge compares; "
        "import-pairs: the same from a file; "
        "label-sheet: write an HTML page for people to label pairs on; "
        "import-labels: print how far they agree, and write the dataset with their labels",
    )
    flags = parser.add_argument
    said = "of each film (default 33); encode: at most (97)"
    flags("--num_frames", type=int, metavar="N", help=said)
    flags("--seed", type=int, metavar="N", help="of scenes, twins, sides (default 0)")
    flags(
        "--num", type=int, metavar="N", help="show, judge: films (8, 200); label-sheet: pairs (20)"
    )
    flags("--outdir", type=pathlib.Path, help="show, twins, label-sheet: where to (default: out)")
    flags(
        "--split",
        help="show, twins: train (default), held_out or held_out_combinations; "
        "label-sheet: of the dataset (default: train)",
    )
    flags("--data_dir", type=pathlib.Path, help="folder of datasets to write (default: data)")
    flags(
        "--num_clips",
        type=int,
        metavar="N",
        help="training clips (build: 4096, pairs: 512); film-pairs: captions (192)",
    )
    flags("--noise", type=float, metavar="X", help="judge: s.d. of added noise, levels (default 0)")
    encode.add_arguments(parser)
    preferences.add_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Runs one action."""
    reads = ACTIONS[args.action]
    for name in {name for flags in ACTIONS.values() for name in flags} - set(reads):
        if getattr(args, name) is not None:
            legal = ", ".join(f"--{flag}" for flag in reads)
            raise UserError(f"data {args.action} does not read --{name}; legal: {legal}")
    given = {name: getattr(args, name) for name in reads}
    values = {name: reads[name] if value is None else value for name, value in given.items()}
    for name, least in LEAST.items():
        if name == "num_frames" and args.action in TOLD_LATER:
            continue
        if values.get(name, least) < least:
            raise UserError(f"--{name} must be {least} or more, got {values[name]}")
    args = argparse.Namespace(**values, action=args.action)
    own = {"build": build, "show": show, "judge": judge}
    return (own | encode.RUN | preferences.RUN)[args.action](args)


def build(args: argparse.Namespace) -> int:
    """Renders the dataset."""
    from skyreels_jax.core.files import check_writable
    from skyreels_jax.data.toy_film.toy_film_dataset_builder import toy_film

    check_writable(args.data_dir)
    builder = toy_film(
        args.data_dir, num_clips=args.num_clips, num_frames=args.num_frames, seed=args.seed
    )
    builder.download_and_prepare()
    for name, split in builder.info.splits.items():
        print(f"{name:<24}{split.num_examples:>7} clips {split.num_bytes / 2**20:>9.1f} MiB")
    print(builder.data_dir)
    return 0


def show(args: argparse.Namespace) -> int:
    """Writes OUTDIR/toy_film_SPLIT.png."""
    import imageio.v3 as iio

    from skyreels_jax.core.files import check_writable, replacing
    from skyreels_jax.data.toy_film.captions import sentences
    from skyreels_jax.data.toy_film.render import render
    from skyreels_jax.data.toy_film.world import sample_scene
    from skyreels_jax.evals.sheet import contact_sheet

    seeds = range(args.seed, args.seed + args.num)
    scenes = [sample_scene(seed, args.split) for seed in seeds]
    check_writable(args.outdir)
    captions = sentences(scenes, seed=args.seed)
    image = contact_sheet([render(scene, args.num_frames) for scene in scenes], captions)
    out = args.outdir / f"toy_film_{args.split}.png"
    with replacing(out) as path:
        iio.imwrite(path, image, extension=".png")
    print(out)
    return 0


def judge(args: argparse.Namespace) -> int:
    """Prints the table of `evaluate` for a perfect model: what is wrong in it is the judge's."""
    import numpy as np
    from tqdm import tqdm

    from skyreels_jax.data.toy_film.render import render
    from skyreels_jax.data.toy_film.world import SPLITS, sample_scene
    from skyreels_jax.evals.suite import evaluate

    # Training films and both held-out kinds in turn: the judge must know them all.
    scenes = [sample_scene(args.seed + i, SPLITS[i % len(SPLITS)]) for i in range(args.num)]

    def films(prompts, seeds):
        for scene, seed in zip(scenes, seeds, strict=True):
            noise = np.random.default_rng(seed).normal(0, 1, (args.num_frames, 64, 64, 3))
            film = render(scene, args.num_frames) + args.noise * noise
            yield np.clip(np.round(film), 0, 255).astype(np.uint8)

    with tqdm(total=len(scenes), unit="film", disable=None, leave=False) as bar:
        report = evaluate(films, scenes, seed=args.seed, progress=lambda _: bar.update())
    print(report.table())
    return 0
