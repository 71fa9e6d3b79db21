"""The actions of `skyreels-jax data` on pairs that differ in motion alone."""

import argparse
import collections
import pathlib

from skyreels_jax.cli import labels
from skyreels_jax.cli.film_pairs import film_pairs

OUT, DATA = pathlib.Path("out"), pathlib.Path("data")
# What each action reads, with its default.
ACTIONS = {
    "twins": {
        **{"outdir": OUT, "split": "train", "num_frames": 33, "seed": 0},
        **{"kinds": (), "strengths": (0.25, 0.5, 1.0), "model": None},
    },
    "pairs": {
        **{"data_dir": DATA, "num_clips": 512, "num_frames": 33, "seed": 0},
        **{"kinds": (), "strengths": (0.25, 0.5, 1.0), "model": None, "per_clip": 1},
        **{"held_out": None, "alignment_gap": 0.1, "quality_gap": 3.0},
    },
    "film-pairs": {
        **{"data_dir": DATA, "num_clips": 192, "num_frames": 33, "seed": 0, "model": None},
        **{"per_clip": 8, "guidance_scale": None, "inference_steps": None},
        **{"held_out": None, "alignment_gap": 0.1, "quality_gap": 3.0},
    },
    "import-pairs": {
        **{"pairs": None, "data_dir": DATA, "alignment_gap": 0.1, "quality_gap": 3.0},
    },
    "label-sheet": {
        **{"pairs": None, "split": "train", "num": 20, "outdir": OUT, "fps": 12.0, "seed": 0},
    },
    "import-labels": {
        **{"labels": None, "pairs": None, "data_dir": DATA},
        **{"min_annotators": 1, "discard_share": 0.5},
    },
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags that these actions alone read."""
    flags = parser.add_argument_group("pairs and labels").add_argument
    flags(
        "--kinds",
        type=_texts,
        metavar="A,B",
        help="twins, pairs: kinds of distortion (default: all of pixels; not v2v, t2v and, of "
        "a model that takes images, i2v, which are made with --model)",
    )
    flags(
        "--strengths",
        type=_numbers,
        metavar="X,Y",
        help="twins, pairs: each more than 0, at most 1 (default 0.25,0.5,1)",
    )
    flags(
        "--model",
        help='twins, pairs: "tiny", a folder or hub id: shows all clips as its decoder does, as a '
        "reward for its films must see them, and makes those of --kinds v2v, t2v, i2v; film-pairs: "
        "makes the films; encode: whose VAE and text encoder",
    )
    flags(
        "--per_clip",
        type=int,
        metavar="N",
        help="pairs: twins of each clip (default 1); film-pairs: films of each caption (default 8)",
    )
    flags(
        "--held_out",
        type=int,
        metavar="N",
        help="pairs, film-pairs: clips or captions of the split held_out (default: one for 16 of "
        "training, 8 or more)",
    )
    for name, kind, unit in (("guidance_scale", float, "X"), ("inference_steps", int, "N")):
        said = "film-pairs: of the films (default: the model's)"
        flags(f"--{name}", type=kind, metavar=unit, help=said)
    flags(
        "--alignment_gap",
        type=float,
        metavar="X",
        help="pairs, film-pairs, import-pairs: most by which clips may differ in text alignment, "
        "of 1 (default 0.1)",
    )
    flags(
        "--quality_gap", type=float, metavar="X", help="the same in visual quality, dB (default 3)"
    )
    flags(
        "--pairs",
        type=pathlib.Path,
        metavar="PATH",
        help="label-sheet, import-labels: folder of the dataset that pairs printed, or a .jsonl "
        "file with chosen, rejected (clips beside it), label, scores a line; import-pairs: such "
        "a file",
    )
    flags("--fps", type=float, metavar="X", help="label-sheet: frames a second (default 12)")
    flags(
        "--labels",
        type=pathlib.Path,
        action="append",
        metavar="FILE",
        help="import-labels: .csv or .jsonl with annotator, pair, label (better, worse, tie or "
        "discard with a reason); give it again for several",
    )
    flags("--min_annotators", type=int, metavar="N", help="import-labels: of a pair (default 1)")
    flags(
        "--discard_share",
        type=float,
        metavar="X",
        help="import-labels: of its annotators who discard a pair, at which it is (default 0.5)",
    )


def twins(args: argparse.Namespace) -> int:
    """Writes OUTDIR/twins.png: a film, and every kind of distortion of it at every strength."""
    import imageio.v3 as iio

    from skyreels_jax.cli import pair_sets
    from skyreels_jax.core.files import check_writable, replacing
    from skyreels_jax.data.preferences.distortions import DISTORTIONS, distort
    from skyreels_jax.data.preferences.model_kinds import MODEL_KINDS
    from skyreels_jax.data.preferences.twins import TwinsConfig
    from skyreels_jax.data.toy_film.captions import sentence
    from skyreels_jax.data.toy_film.render import render
    from skyreels_jax.data.toy_film.world import sample_scene
    from skyreels_jax.evals.sheet import contact_sheet

    config = TwinsConfig(kinds=args.kinds or tuple(DISTORTIONS), strengths=args.strengths)
    scene = sample_scene(args.seed, args.split)
    prompt, film = sentence(scene, args.seed), render(scene, args.num_frames)
    check_writable(args.outdir)
    maker, _ = pair_sets.maker(args.model, config.kinds)
    films, captions = [film], [prompt]
    if maker is not None:
        films.append(maker.reconstruct(film))
        captions.append("encoded and decoded")
    for kind, strength in sorted(config.variants, key=lambda v: config.kinds.index(v[0])):
        if kind in MODEL_KINDS:
            films.append(maker.remake(kind, film, prompt, strength, args.seed))
        else:
            twin = distort(kind, film, strength=strength, seed=args.seed)
            films.append(twin if maker is None else maker.reconstruct(twin))
        captions.append(f"{kind} {strength:g}")
    out = args.outdir / "twins.png"
    with replacing(out) as path:
        iio.imwrite(path, contact_sheet(films, captions), extension=".png")
    print(out)
    return 0


def pairs(args: argparse.Namespace) -> int:
    """Writes a dataset of preferences: ToyFilm's clips and their twins."""
    from skyreels_jax.cli import pair_sets
    from skyreels_jax.core.config import to_dict
    from skyreels_jax.core.files import check_writable
    from skyreels_jax.data.preferences.distortions import DISTORTIONS
    from skyreels_jax.data.preferences.records import Limits
    from skyreels_jax.data.preferences.twins import TwinsConfig
    from skyreels_jax.data.toy_film.world import SIZE

    config = TwinsConfig(
        kinds=args.kinds or tuple(DISTORTIONS),
        strengths=args.strengths,
        per_clip=args.per_clip,
        limits=Limits(text_alignment=args.alignment_gap, visual_quality=args.quality_gap),
        seed=args.seed,
    )
    held_out = pair_sets.held_out(args)
    check_writable(args.data_dir)
    dropped = collections.Counter()
    maker, weights = pair_sets.maker(args.model, config.kinds)
    options = {"held_out": held_out, "maker": maker, "dropped": dropped}
    splits = pair_sets.toy_splits(config, args.num_clips, args.num_frames, **options)
    name = f"toy-{args.num_clips}x{args.num_frames}"
    name = pair_sets.called(name, [to_dict(config), weights, held_out])
    pair_sets.write(args.data_dir, name, splits, shape=(args.num_frames, SIZE, SIZE))
    pair_sets.print_dropped(dropped)
    return 0


def import_pairs(args: argparse.Namespace) -> int:
    """Writes a dataset of preferences: the pairs of a file."""
    from skyreels_jax.cli import pair_sets
    from skyreels_jax.core.config import to_dict
    from skyreels_jax.core.files import check_writable
    from skyreels_jax.data.preferences.records import Limits, comparable

    limits = Limits(text_alignment=args.alignment_gap, visual_quality=args.quality_gap)
    path, dropped = labels.needed(args, "pairs"), collections.Counter()
    name = pair_sets.called(path.stem, [pair_sets.identity(path), to_dict(limits)])
    (read,) = pair_sets.read_file(path).values()
    check_writable(args.data_dir)
    splits = {"train": lambda: comparable(read(), limits, dropped=dropped)}
    pair_sets.write(args.data_dir, name, splits, shape=pair_sets.shape({"": read}))
    pair_sets.print_dropped(dropped)
    return 0


def _texts(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(","))


def _numbers(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not numbers such as 0.25,0.5") from None


RUN = {
    "twins": twins,
    "pairs": pairs,
    "film-pairs": film_pairs,
    "import-pairs": import_pairs,
    "label-sheet": labels.label_sheet,
    "import-labels": labels.import_labels,
}
