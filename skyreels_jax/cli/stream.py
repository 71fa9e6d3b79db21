"""Makes one film window by window: of any length, in constant memory, with prompts that change.

The film is a fragmented .mp4 that plays at any moment, and grows. Beside it lies a .state, from
which --resume goes on; the film is then the same, frame by frame, as if it had never been stopped.
Ctrl-C and SIGTERM stop after the last whole window; a crash loses no more than the window it was
in, or with --state_every N the last N of them.

A file of prompts has one a line, which share the film equally, or lines "SECOND: PROMPT", counted
from the first frame that is made; a window shows what holds in its middle.

examples:
  skyreels-jax stream --prompts story.txt --seconds 600 --out film.mp4
  skyreels-jax stream --prompt "A red ring glides slowly to the right, close-up."   # until stopped
  skyreels-jax stream --resume film.state
  skyreels-jax stream --model_id Skywork/SkyReels-V2-DF-14B-540P-Diffusers --resolution 540P \\
      --addnoise_condition 20 --prompts story.txt --seconds 30 --out story.mp4
"""

import argparse
import contextlib
import pathlib
import shlex
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from skyreels_jax.cli import flags
from skyreels_jax.core.errors import UserError
from skyreels_jax.core.signals import sigterm_raises

if TYPE_CHECKING:
    from skyreels_jax.pipelines.film_stream import FilmStream

NAME = "stream"
HELP = "make one film of any length, window by window"
OPTIONS = ("crossfade", *flags.SAMPLING, *flags.GIVEN, *flags.WINDOWS)


class Job(NamedTuple):
    """A film to make, all checked.

    start: loads the model and begins. path, state: of the files.
    every: windows from one writing of the state to the next.
    size: how many bytes the film has that goes on, and is cut back to its state before; None: it is
    a new one, which takes the place of what is there if it may `overwrite` it.
    """

    start: Callable
    path: pathlib.Path
    state: pathlib.Path
    every: int = 1
    size: int | None = None
    overwrite: bool = False


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of this command to `parser`."""
    content = parser.add_argument_group("what to film")
    what = content.add_mutually_exclusive_group(required=True)
    what.add_argument("--prompt", metavar="TEXT", help="a sentence")
    what.add_argument("--prompts", type=pathlib.Path, metavar="FILE", help="a story, see above")
    what.add_argument(
        "--resume", type=pathlib.Path, metavar="STATE", help="go on with the film of this state"
    )
    content.add_argument(
        "--seconds",
        type=float,
        metavar="X",
        help="how long (without it and --num_frames: until stopped)",
    )
    content.add_argument(
        "--crossfade", type=float, metavar="X", help="seconds for which prompts mix (default 0)"
    )
    flags.add_given(content)
    how = parser.add_argument_group("how")
    flags.add_sampling(how)
    flags.add_mesh(how)
    flags.add_windows(parser)
    where = parser.add_argument_group("where")
    where.add_argument(
        "--out",
        type=pathlib.Path,
        metavar="FILM.mp4",
        help="default: out/film.mp4, or the one beside the state",
    )
    where.add_argument(
        "--state_every",
        type=int,
        default=1,
        metavar="N",
        help="windows from one writing of the state to the next (default: 1); more where --carry "
        "cache makes it large",
    )
    where.add_argument("--overwrite", action="store_true", help="replace a film of that name")


def run(args: argparse.Namespace) -> int:
    """Checks everything, then makes the film."""
    from tqdm import tqdm

    if args.state_every < 1:
        raise UserError(f"state_every {args.state_every} is out of range; legal: 1 and more")
    job = (new if args.resume is None else resumed)(args)
    with sigterm_raises(), tqdm(unit="step", disable=None, leave=False) as bar:
        make(job, job.start(bar.update), lambda line: bar.write(line, file=sys.stderr))
    print(job.path)
    return 0


def new(args: argparse.Namespace) -> Job:
    """Returns a film from its first frame on."""
    from skyreels_jax.core import files
    from skyreels_jax.pipelines import load, validate
    from skyreels_jax.pipelines.stream_request import stream_request

    options = flags.given_options(args, OPTIONS)
    if args.resolution is not None:
        options["height"], options["width"] = validate.parse_resolution(args.resolution)
    source = load.find(args.model_id or load.TINY)
    prompts = args.prompts if args.prompt is None else args.prompt
    request, story = stream_request(source, prompts, seconds=args.seconds, **options)
    path = checked(args.out or pathlib.Path("out", "film.mp4"))
    state = path.with_suffix(".state")
    for old in (path, state):
        if old.exists() and not (args.overwrite and old.is_file()):
            raise UserError(
                f"{str(old)!r} exists; give --overwrite, another --out, or go on with --resume"
            )
    if path.exists() and request.video is not None and path.samefile(request.video.path):
        raise UserError(f"{str(path)!r} is the video that the film continues; give another --out")
    files.check_writable(path.parent)

    mesh = flags.mesh(args.mesh, source, request)

    def start(progress: Any) -> "FilmStream":
        model = source.load(dtype=request.dtype, mesh=mesh)
        return model.open_stream(request, story, progress=progress)

    return Job(start, path, state, args.state_every, overwrite=args.overwrite)


def resumed(args: argparse.Namespace) -> Job:
    """Returns a film that goes on."""
    from skyreels_jax.core import files
    from skyreels_jax.pipelines import fragments, load
    from skyreels_jax.pipelines.state import read_state
    from skyreels_jax.pipelines.stream_request import resumed_request

    fixed = [*flags.given_options(args, (*OPTIONS, "resolution")), *["overwrite"] * args.overwrite]
    if fixed:
        raise UserError(
            f"--resume goes on with the film as it was begun; leave out --{fixed[0]} "
            "(legal: --seconds, --out, --state_every, --model_id)"
        )
    state = read_state(args.resume)
    source = load.find(args.model_id or state.recipe.model_id)
    request = resumed_request(source, state, seconds=args.seconds)
    path = checked(args.out or args.resume.with_suffix(".mp4"))
    for place in (path, args.resume):
        files.check_writable(place.parent)
    mesh = flags.mesh(args.mesh, source, request)
    header = fragments.header_of(request.height, request.width, request.fps)
    size = fragments.check(path, state.frames, header=header)

    def start(progress: Any) -> "FilmStream":
        model = source.load(dtype=request.dtype, mesh=mesh)
        return model.resume(state, seconds=args.seconds, progress=progress)

    return Job(start, path, args.resume, args.state_every, size)


def make(job: Job, stream: "FilmStream", report: Callable) -> None:
    """Makes the film; whatever stops it, whole windows are left, and a state to go on from.

    The state is written after the first window, every `job.every` windows, and at the end. What the
    film takes the place of stays until there is a window.
    """
    from skyreels_jax.pipelines import fragments

    kept, before, started = stream.frames, stream.frames, time.monotonic()
    begun = job.size is not None
    # Windows made here; frames of the state on disk; whether it was to be written after the last.
    windows, saved, due = 0, kept, True
    size = fragments.cut(job.path, kept, size=job.size) if begun else None
    try:
        for frames in stream:
            if not begun and job.overwrite:
                for old in (job.path, job.state):
                    old.unlink(missing_ok=True)
            begun, at = True, stream.frames - len(frames)
            size = fragments.append(job.path, frames, stream.fps, at=at, size=size)
            kept = stream.frames  # before the state: the film may be ahead of it, never behind
            if not stream.has_state:  # a part of the video that the film continues
                before = kept
                continue
            due, windows = windows % job.every == 0, windows + 1
            if due:
                saved = save(job, stream)
            rate = (kept - before) / stream.fps / (time.monotonic() - started)
            whole = stream.num_frames
            goal = "" if whole is None else f" of {whole / stream.fps:.1f} s"
            report(f"{stream.seconds:.1f} s{goal}, {rate:.3g} seconds made a second")
        if not due:
            due = True
            saved = save(job, stream)
    except fragments.Changed:  # what is there is not ours to cut
        raise
    except BaseException:
        if not due and stream.has_state and stream.frames == kept:
            with contextlib.suppress(Exception):  # the older one goes on as well
                saved = save(job, stream)
        if kept and job.state.exists():
            fragments.cut(job.path, kept)
            behind = "" if saved == kept else f", its state {saved / stream.fps:.1f} s"
            report(f"{job.path} has {kept / stream.fps:.1f} s{behind}; go on with: {again(job)}")
        elif begun:
            job.path.unlink(missing_ok=True)
        raise


def save(job: Job, stream: "FilmStream") -> int:
    """Writes the state; returns how many frames the film has with which it goes on."""
    stream.state.save(job.state)
    return stream.frames


def again(job: Job) -> str:
    """Returns the command that goes on with the film."""
    command = ["skyreels-jax", "stream", "--resume", str(job.state)]
    if job.path != job.state.with_suffix(".mp4"):
        command += ["--out", str(job.path)]
    return shlex.join(command)


def checked(path: pathlib.Path) -> pathlib.Path:
    """Returns the path of a film that can be written here; `UserError` otherwise."""
    from skyreels_jax.pipelines import film

    if path.suffix.lower() != ".mp4":
        raise UserError(f"cannot let a film grow as {path.name!r}; legal ending: .mp4")
    film.film_writer(path)
    return path
