"""`skyreels-jax data film-pairs`: a model's own films, compared by the judge."""

import argparse
import collections
import functools
import itertools
import shutil
from collections.abc import Iterator
from typing import TYPE_CHECKING

from skyreels_jax.cli import labels
from skyreels_jax.core.errors import UserError

if TYPE_CHECKING:
    from skyreels_jax.data.preferences.records import Preference

BATCH = 16  # films denoised side by side


def film_pairs(args: argparse.Namespace) -> int:
    """Writes a dataset of preferences: films of the same captions, the judge's motion score.

    No caption asks for a subject that stays still (`moving_scenes`).

    Films are kept beside it until it is finished: stopped, the same command goes on.
    """
    from skyreels_jax.cli import pair_sets
    from skyreels_jax.cli.recipes.own_films import Order
    from skyreels_jax.core.config import to_dict
    from skyreels_jax.core.files import check_writable
    from skyreels_jax.data.preferences.judged import Told, Verdicts, judged_pairs
    from skyreels_jax.data.preferences.records import Limits, comparable
    from skyreels_jax.data.preferences.told_store import kept
    from skyreels_jax.data.toy_film.captions import sentences
    from skyreels_jax.data.toy_film.prompt_sets import moving_scenes
    from skyreels_jax.data.toy_film.world import SIZE
    from skyreels_jax.evals.axes import score_axes
    from skyreels_jax.evals.judge import check_size
    from skyreels_jax.evals.stills import stills_score
    from skyreels_jax.pipelines import load

    if args.per_clip < 2:
        raise UserError(f"--per_clip must be 2 or more, to compare films, got {args.per_clip}")
    check_size(args.num_frames, SIZE, SIZE)
    limits = Limits(text_alignment=args.alignment_gap, visual_quality=args.quality_gap)
    source = load.find(labels.needed(args, "model"))
    options = {name: getattr(args, name) for name in ("num_frames", "inference_steps")}
    options |= {"guidance_scale": args.guidance_scale, "height": SIZE, "width": SIZE}

    def order(prompts: list[str], stream: int) -> Order:
        seeds = (args.seed, stream)
        return Order(prompts=prompts, each=args.per_clip, seeds=seeds, batch=BATCH, options=options)

    order(["a ring"], 0).request(source, [0])  # whatever is wrong is said before weights are read
    check_writable(args.data_dir)
    verdicts, dropped = Verdicts(), collections.Counter()
    held_out = pair_sets.held_out(args)
    said = [source.fingerprint, options, args.per_clip, args.seed, held_out]
    said += [to_dict(limits), verdicts]
    name = pair_sets.called(f"films-{args.num_clips}x{args.num_frames}", said)
    made_so_far = args.data_dir / f"{name}.partial"
    model = source.load()

    def pairs(split: str, count: int, stream: int) -> "Iterator[Preference]":
        drawn = itertools.islice(moving_scenes(args.seed, split), count)
        seeds, scenes = zip(*drawn, strict=True)
        prompts = sentences(scenes, seed=args.seed)
        ordered = order(prompts, stream)

        def made(first: int) -> Iterator[Told]:
            films = range(first * args.per_clip, len(ordered))
            shown = itertools.chain.from_iterable(
                model.films(ordered.request(source, list(films[start : start + BATCH])))
                for start in range(0, len(films), BATCH)
            )
            for index in range(first, count):
                seed, scene, prompt = seeds[index], scenes[index], prompts[index]
                some = [film.frames for film in itertools.islice(shown, args.per_clip)]
                motion = [score_axes(film, scene)["motion"] for film in some]
                yield Told(f"{split}-{seed}", prompt, some, motion)

        score = stills_score(dict(zip(prompts, scenes, strict=True)))
        told = kept(made_so_far / split, made)
        found = judged_pairs(told, verdicts, score=score, seed=args.seed)
        return comparable(found, limits, dropped=dropped)

    splits = {
        "train": functools.partial(pairs, "train", args.num_clips, 0),
        "held_out": functools.partial(pairs, "held_out", held_out, 1),
    }
    pair_sets.write(args.data_dir, name, splits, shape=(args.num_frames, SIZE, SIZE))
    pair_sets.print_dropped(dropped)
    shutil.rmtree(made_so_far, ignore_errors=True)
    return 0
