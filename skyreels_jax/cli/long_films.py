"""What the benchmarks of long films share: films asked for, made and handed on chunk by chunk.

All is checked before a model is loaded; no film is ever held whole.
"""

import argparse
import bisect
import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import UInt8

from skyreels_jax.cli import flags
from skyreels_jax.cli.settings import Setting, parse_settings
from skyreels_jax.core.errors import UserError

if TYPE_CHECKING:
    from skyreels_jax.data.toy_film.world import Scene
    from skyreels_jax.pipelines.lengths import Window
    from skyreels_jax.pipelines.model import VideoModel
    from skyreels_jax.pipelines.source import ModelSource
    from skyreels_jax.pipelines.story import Story
    from skyreels_jax.pipelines.validate import Request

BATCH = 16  # clips made side by side
OPTIONS = (*flags.STEPS, "dtype", *flags.WINDOWS)

Frames = UInt8[np.ndarray, "F H W 3"]


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Asked:
    """A setting, its model before the weights, and the films to make in it, checked.

    options: of all its films, those of the command and its own.
    """

    setting: Setting
    source: "ModelSource"
    films: "tuple[tuple[Request, Story], ...]"
    options: dict[str, Any]

    @property
    def name(self) -> str:
        """That of the setting."""
        return self.setting.name

    @property
    def request(self) -> "Request":
        """What the films have in common."""
        return self.films[0][0]

    @property
    def frames(self) -> int:
        """Frames of one film."""
        return self.request.film.new_frames or 0

    @property
    def seconds(self) -> float:
        """How long a film lasts."""
        return self.frames / self.request.fps


def ask(
    args: argparse.Namespace, settings: Sequence[str], texts: Sequence[Sequence[str]]
) -> list[Asked]:
    """Returns, for every setting, films of `texts`, checked; the prompts of each share it equally.

    Film i has the seed --seed + i. All last --windows times the base window of the first setting.
    Raises `UserError` for what cannot be made or judged; no weights are read.
    """
    from skyreels_jax.evals.judge import check_size
    from skyreels_jax.evals.seconds import check_second
    from skyreels_jax.pipelines import load, validate
    from skyreels_jax.pipelines.stream_request import stream_request

    if args.windows < 1:
        raise UserError(f"--windows must be 1 or more, got {args.windows}")
    shared = flags.given_options(args, OPTIONS)
    if args.resolution is not None:
        shared["height"], shared["width"] = validate.parse_resolution(args.resolution)
    seeds = [args.seed + i for i in range(len(texts))]
    parsed, sources, seconds, asked = parse_settings(settings), {}, None, []
    for setting in parsed:
        options = shared | setting.options
        name = options.pop("model", args.model)
        source = sources[name] = sources.get(name) or load.find(name)
        try:
            base = source.request(prompt=texts[0][0], endless=True, **options)
            frames = base.film.base_num_frames
            check_size(frames, base.height, base.width)
            seconds = seconds or args.windows * frames / base.fps
            check_second(args.windows * frames)
            films = tuple(
                stream_request(source, list(text), seconds=seconds, seed=seed, **options)
                for text, seed in zip(texts, seeds, strict=True)
            )
        except UserError as error:
            raise UserError(f"setting {setting.name!r}: {error}") from None
        asked.append(Asked(setting=setting, source=source, films=films, options=options))
    return asked


def clips(one: Asked, batch_size: int | None) -> "Request":
    """Returns the checked request for single films of a base window, one for every prompt."""
    from skyreels_jax.evals.seconds import check_second

    check_second(one.request.film.base_num_frames)
    return one.source.request(
        prompt=[text for _, story in one.films for text in story.prompts],
        seed=[seed for request, story in one.films for seed in request.seeds * len(story.prompts)],
        num_frames=one.request.film.base_num_frames,
        batch_size=BATCH if batch_size is None else batch_size,
        **one.options,
    )


def with_models(asked: Sequence[Asked], work: "Callable[[Asked, VideoModel], Any]") -> list[Any]:
    """Returns what `work` makes of every setting and its model, one model at a time in memory;
    settings that follow each other share theirs."""
    model, results = None, []
    for one in asked:
        if model is None or model.source is not one.source:
            model = None  # the old one's memory, before the new one's
            model = one.source.load(dtype=one.request.dtype)
        results.append(work(one, model))
    return results


def progress_bar(frames: int):
    """Returns a bar that counts frames."""
    from tqdm import tqdm

    return tqdm(total=frames, unit="frame", disable=None, leave=False)


def counted(chunks: Iterator[Frames], bar: Any) -> Iterator[Frames]:
    """Yields the chunks; `bar` moves on when each has been judged."""
    for chunk in chunks:
        yield chunk
        bar.update(len(chunk))


def timed(open_film: Callable[[], Iterator[Frames]], took: list[float]) -> Iterator[Frames]:
    """Yields the chunks of a film; appends the seconds that it took to open it and make each."""
    start = time.perf_counter()
    chunks = open_film()
    while (chunk := next(chunks, None)) is not None:
        took.append(time.perf_counter() - start)
        yield chunk
        start = time.perf_counter()


def rendered(scene: "Scene", frames: int, *, chunk: int = 32) -> Iterator[Frames]:
    """Yields a film of the world itself."""
    from skyreels_jax.data.toy_film.render import render

    for start in range(0, frames, chunk):
        yield render(scene, min(chunk, frames - start), start=start)


def part_of(window: "Window", story: "Story", fps: float) -> int:
    """Returns which part of `story` a window shows: what holds in its middle."""
    starts = [start for start, _ in story.segments]
    return bisect.bisect_right(starts, window.middle / fps) - 1


def labelled(
    chunks: Iterator[Frames], request: "Request", story: "Story"
) -> Iterator[tuple[int, Frames]]:
    """Yields the chunks, a window each, with the part of the story that it shows."""
    for window, chunk in zip(request.film.windows(), chunks, strict=True):
        yield part_of(window, story, request.fps), chunk


def left_out(request: "Request") -> int:
    """Returns how many frames the window adds in which a prompt changes."""
    return request.film.window(1).frames


def check_parts(one: Asked, least: int) -> None:
    """Raises `UserError` unless every part of the story has `least` frames to judge."""
    request, story = one.films[0]
    for part in range(len(story.segments)):
        windows = (w for w in request.film.windows() if part_of(w, story, request.fps) == part)
        frames = sum(w.frames for w in windows) - (left_out(request) if part else 0)
        if frames < least:
            raise UserError(
                f"setting {one.name!r}: part {part + 1} of a story of {one.seconds:.1f} s has "
                f"{max(frames, 0)} frames to judge, fewer than {least}; give more --windows"
            )
