"""The benchmarks of long films, `evaluate --benchmark`: drift, story, schedules."""

import argparse
import functools
import json
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from skyreels_jax.cli import long_films
from skyreels_jax.cli.long_films import Asked, Frames, counted, progress_bar, with_models
from skyreels_jax.core.errors import UserError

if TYPE_CHECKING:
    from skyreels_jax.data.toy_film.world import Scene
    from skyreels_jax.evals.seconds import Judged
    from skyreels_jax.pipelines.model import VideoModel

NUM = 8  # films, or stories
TRUTH = "the world itself"


def drift(args: argparse.Namespace) -> None:
    """Long films of held-out captions: what changes from second to second."""
    from skyreels_jax.evals.drift import Drift, table
    from skyreels_jax.evals.plots import plot_drift

    scenes, prompts = _captions(args)
    asked = long_films.ask(args, args.setting, [[text] for text in prompts])
    frames = asked[0].frames
    with _started(args, (sum(a.frames for a in asked) + frames) * len(scenes)) as bar:

        def judged(name: str, film: Callable[[int], Iterator[Frames]]) -> Drift:
            bar.set_description(name)
            return Drift(name=name, films=_judged(args, scenes, prompts, film, bar))

        truth = judged(TRUTH, lambda i: long_films.rendered(scenes[i], frames))
        drifts = with_models(
            asked, lambda a, model: judged(a.name, lambda i: model.open_stream(*a.films[i]))
        )
    results = {d.name: d.summary() | {"curves": d.curves()} for d in drifts}
    _write(
        args,
        asked,
        results,
        {"world": truth.summary() | {"curves": truth.curves()}},
        records={d.name: d.records() for d in drifts},
        plot=lambda path, title: plot_drift(path, drifts, truth, title=title),
        shown=[(d.name, d.films[i]) for i in range(len(scenes)) for d in drifts],
        text=table([truth, *drifts]),
    )


def story(args: argparse.Namespace) -> None:
    """Films whose prompt changes: each part against its own prompt, beside single clips."""
    from skyreels_jax.data.toy_film.captions import sentence
    from skyreels_jax.evals.lasting import STRETCH
    from skyreels_jax.evals.plots import plot_stories
    from skyreels_jax.evals.seconds import Judged, judge_seconds
    from skyreels_jax.evals.story import StoryReport, judge_segments

    stories = _stories(args)
    texts = [
        [sentence(scene, args.seed + i + len(stories) * part) for part, scene in enumerate(scenes)]
        for i, scenes in enumerate(stories)
    ]
    asked = long_films.ask(args, args.setting, texts)
    for a in asked:
        long_films.check_parts(a, STRETCH)

    def films(found: Sequence[Sequence[tuple]]) -> tuple[tuple[Judged, ...], ...]:
        """Returns seconds, story after story and part after part, with what was asked for."""
        return tuple(
            tuple(
                Judged(scene=scene, prompt=text, seed=args.seed + i, seconds=seconds)
                for scene, text, seconds in zip(stories[i], texts[i], parts, strict=True)
            )
            for i, parts in enumerate(found)
        )

    def made(a: Asked, model: "VideoModel") -> StoryReport:
        bar.set_description(f"{a.name}, clips")
        shown = (counted(iter([film.frames]), bar) for film in model.films(clips[a.name]))
        seconds = [tuple(judge_seconds(clip)) for clip in shown]
        each = len(texts[0])
        alone = [seconds[k : k + each] for k in range(0, len(seconds), each)]
        bar.set_description(a.name)
        told = []
        for request, text in a.films:
            stream = counted(model.open_stream(request, text), bar)
            chunks = long_films.labelled(stream, request, text)
            segments = judge_segments(chunks, left_out=cut[a.name])
            told.append([seconds for _, seconds in segments])
        return StoryReport(name=a.name, stories=films(told), clips=films(alone))

    clips = {a.name: long_films.clips(a, args.batch_size) for a in asked}
    cut = {a.name: long_films.left_out(a.request) for a in asked}
    frames = sum(a.frames for a in asked) * len(stories)
    frames += sum(request.num_frames * len(request.prompts) for request in clips.values())
    with _started(args, frames) as bar:
        reports = with_models(asked, made)
    note = "not judged: the window in which the prompt changes, "
    note += ", ".join(f"{count} frames ({name})" for name, count in cut.items())
    _write(
        args,
        asked,
        {r.name: {"left_out_frames": cut[r.name]} | r.summary() for r in reports},
        records={r.name: r.records() for r in reports},
        plot=lambda path, title: plot_stories(path, reports, title=title),
        shown=[(r.name, p) for i in range(len(stories)) for r in reports for p in r.stories[i]],
        text="\n\n".join([*(r.table() for r in reports), note]),
    )


def schedules(args: argparse.Namespace) -> None:
    """The same films made synchronously, asynchronously, ...: quality and cost of each."""
    from skyreels_jax.evals.plots import plot_schedules
    from skyreels_jax.evals.schedules import Schedule, table
    from skyreels_jax.pipelines.generate import is_guided

    scenes, prompts = _captions(args)
    asked = long_films.ask(args, args.setting, [[text] for text in prompts])

    def made(a: Asked, model: "VideoModel") -> Schedule:
        bar.set_description(a.name)
        clocks, steps = [[] for _ in scenes], [[] for _ in scenes]

        def film(i: int) -> Iterator[Frames]:
            stream = functools.partial(model.open_stream, progress=steps[i].append)
            return long_films.timed(lambda: stream(*a.films[i]), clocks[i])

        films = _judged(args, scenes, prompts, film, bar)
        sides = 2 if is_guided(a.request.guidance_scale) else 1
        return Schedule(
            name=a.name,
            model=a.source.model_id,
            films=films,
            took=tuple(sum(clock) for clock in clocks),
            runs=tuple(sides * sum(counts) for counts in steps),
            lasts=a.seconds,
        )

    with _started(args, sum(a.frames for a in asked) * len(scenes)) as bar:
        rows = with_models(asked, made)
    _write(
        args,
        asked,
        {row.name: row.summary() for row in rows},
        records={row.name: [list(film.right()) for film in row.films] for row in rows},
        plot=lambda path, title: plot_schedules(path, rows, title=title),
        shown=[(row.name, row.films[i]) for i in range(len(scenes)) for row in rows],
        text=table(rows),
    )


RUN = {"drift": drift, "story": story, "schedules": schedules}
WINDOWS = {"drift": 10, "story": 10, "schedules": 4}
SETTINGS = {
    "drift": (
        "latents: carry=latents addnoise_condition=0",
        "pixels: carry=pixels addnoise_condition=20",
        "pixels, no added noise: carry=pixels addnoise_condition=0",
    ),
    "story": (
        "latents: carry=latents addnoise_condition=0",
        "pixels: carry=pixels addnoise_condition=20",
    ),
    "schedules": ("synchronous: ar_step=0", "asynchronous: ar_step=5 causal_block_size=3"),
}
TITLES = {
    "drift": "Films of {seconds:.0f} s, second by second ({num} {prompts} captions)",
    "story": "{num} stories of {seconds:.0f} s beside single clips ({prompts} captions)",
    "schedules": "Quality and cost of films of {seconds:.0f} s ({num} {prompts} captions)",
}


def run(args: argparse.Namespace) -> int:
    """Runs the benchmark that is asked for, with its defaults for what is not."""
    name = args.benchmark
    args.windows = WINDOWS[name] if args.windows is None else args.windows
    args.setting = args.setting or list(SETTINGS[name])
    RUN[name](args)
    return 0


def _captions(args: argparse.Namespace) -> "tuple[list[Scene], list[str]]":
    """Returns the scenes of a benchmark and a sentence for each."""
    from skyreels_jax.data.toy_film.captions import sentences
    from skyreels_jax.data.toy_film.world import SPLITS
    from skyreels_jax.evals.suite import load_scenes

    few = NUM if args.prompts in SPLITS and args.num is None else args.num
    scenes = load_scenes(args.prompts, few, seed=args.seed)
    return scenes, sentences(scenes, seed=args.seed)


def _stories(args: argparse.Namespace) -> "list[tuple[Scene, ...]]":
    from skyreels_jax.data.toy_film.world import SPLITS
    from skyreels_jax.evals import story
    from skyreels_jax.evals.suite import load_scenes

    if args.prompts not in SPLITS:
        if args.change is not None:
            raise UserError("--change is for stories of a split; those of a file are as written")
        num = None if args.num is None else story.SEGMENTS * args.num
        return story.group_stories(load_scenes(args.prompts, num, seed=args.seed))
    num = NUM if args.num is None else args.num
    load_scenes(args.prompts, num, seed=args.seed)  # refuses illegal numbers and seeds
    changes = story.CHANGES if args.change is None else story.check_changes(args.change)
    return story.make_stories(args.prompts, num, seed=args.seed, changes=changes)


def _started(args: argparse.Namespace, frames: int):
    """Returns the bar of work that can be written when it is done."""
    from skyreels_jax.core.files import check_writable

    if args.rows < 1:
        raise UserError(f"--rows must be 1 or more, got {args.rows}")
    check_writable(args.outdir)
    return progress_bar(frames)


def _judged(
    args: argparse.Namespace,
    scenes: "Sequence[Scene]",
    prompts: Sequence[str],
    film: Callable[[int], Iterator[Frames]],
    bar: Any,
) -> "tuple[Judged, ...]":
    """Returns what each of the films shows, which `film` makes by their number."""
    from skyreels_jax.evals.seconds import Judged, judge_seconds

    return tuple(
        Judged(
            scene=scene,
            prompt=text,
            seed=args.seed + i,
            seconds=tuple(judge_seconds(counted(film(i), bar))),
        )
        for i, (scene, text) in enumerate(zip(scenes, prompts, strict=True))
    )


def _write(
    args: argparse.Namespace,
    asked: Sequence[Asked],
    results: dict[str, dict[str, Any]],
    more: dict[str, Any] | None = None,
    *,
    records: Any,
    plot: Callable[[pathlib.Path, str], None],
    shown: "Sequence[tuple[str, Judged]]",
    text: str,
) -> None:
    """Writes BENCHMARK.json, .png and _sheet.png into --outdir and prints the summary."""
    import imageio.v3 as iio

    from skyreels_jax.core.files import replacing, write_json
    from skyreels_jax.evals.sheet import contact_sheet

    name, first = args.benchmark, asked[0]
    settings = {
        a.name: {
            "model": a.source.model_id,
            "options": a.options,
            "inference_steps": a.request.inference_steps,
            "seconds": round(a.seconds, 3),
            **results[a.name],
        }
        for a in asked
    }
    said = {"benchmark": name, "prompts": args.prompts, "seed": args.seed, "windows": args.windows}
    said |= {"settings": settings} | (more or {})
    write_json(args.outdir / f"{name}.json", {**said, "films": records})
    with replacing(args.outdir / f"{name}.png") as path:
        named = pathlib.Path(args.prompts).name.replace("_", "-")
        about = {"seconds": first.seconds, "num": len(first.films), "prompts": named}
        plot(path, TITLES[name].format(**about))
    shown = shown[: args.rows]
    films = [np.stack([second.frame for second in film.seconds]) for _, film in shown]
    image = contact_sheet(films, [f"{title}: {film.prompt}" for title, film in shown])
    with replacing(args.outdir / f"{name}_sheet.png") as path:
        iio.imwrite(path, image, extension=".png")
    if args.json:
        print(json.dumps(said))
        return
    print(f"{text}\n")
    for ending in (".json", ".png", "_sheet.png"):
        print(args.outdir / f"{name}{ending}")
