"""Makes one film window by window: of any length, in constant memory, with prompts that change.

The film is a fragmented .mp4 that plays at any moment, and grows. Beside it lies a .state, from
which --resume goes on; the film is then the same, frame by frame, as if it had never been stopped.
Ctrl-C stops after the last whole window; a crash loses no more than the window it was in.

A file of prompts has one a line, which share the film equally, or lines "SECOND: PROMPT".

examples:
  skyreels-jax stream --prompts story.txt --seconds 600 --out film.mp4
  skyreels-jax stream --prompt "A red ring glides slowly to the right, close-up."   # until stopped
  skyreels-jax stream --resume film.state
  skyreels-jax stream --model_id Skywork/SkyReels-V2-DF-14B-540P-Diffusers --resolution 540P \\
      --addnoise_condition 20 --prompts story.txt --seconds 30 --out story.mp4
"""

import argparse
import pathlib
import shlex
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from skyreels_jax.cli import flags
from skyreels_jax.core.errors import UserError

if TYPE_CHECKING:
    from skyreels_jax.pipelines.film_stream import FilmStream

NAME = "stream"
HELP = "make one film of any length, window by window"
OPTIONS = ("crossfade", *flags.SAMPLING, *flags.GIVEN, *flags.WINDOWS)

# Where the film goes, where its state goes, and what loads the model and begins.
Start = tuple[pathlib.Path, pathlib.Path, Callable]


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
        "--seconds", type=float, metavar="X", help="how long (without it: until stopped)"
    )
    content.add_argument(
        "--crossfade", type=float, metavar="X", help="seconds for which prompts mix (default 0)"
    )
    flags.add_given(content)
    flags.add_sampling(parser.add_argument_group("how"))
    flags.add_windows(parser)
    where = parser.add_argument_group("where")
    where.add_argument(
        "--out",
        type=pathlib.Path,
        metavar="FILM.mp4",
        help="default: out/film.mp4, or the one beside the state",
    )
    where.add_argument("--overwrite", action="store_true", help="replace a film of that name")


def run(args: argparse.Namespace) -> int:
    """Checks everything, then makes the film."""
    from tqdm import tqdm

    path, state, start = (new if args.resume is None else resumed)(args)
    with tqdm(unit="step", disable=None, leave=False) as bar:
        stream = start(bar.update)
        make(stream, path, state, lambda line: bar.write(line, file=sys.stderr))
    print(path)
    return 0


def new(args: argparse.Namespace) -> Start:
    """Returns what starts a new film; all is checked."""
    from skyreels_jax.pipelines import files, load, validate
    from skyreels_jax.pipelines.stream_request import stream_request

    options = flags.given_options(args, OPTIONS)
    if args.resolution is not None:
        options["height"], options["width"] = validate.parse_resolution(args.resolution)
    source = load.find(args.model_id or load.TINY)
    prompts = args.prompts if args.prompt is None else args.prompt
    request, story = stream_request(source, prompts, seconds=args.seconds, **options)
    path = checked(args.out or pathlib.Path("out", "film.mp4"))
    files_made = path, path.with_suffix(".state")
    if not args.overwrite and (found := [str(p) for p in files_made if p.exists()]):
        raise UserError(
            f"{found[0]!r} exists; give --overwrite, another --out, or go on with --resume"
        )
    files.check_writable(path.parent)

    def start(progress: Any) -> "FilmStream":
        model = source.load(dtype=request.dtype)
        stream = model.open_stream(request, story, progress=progress)
        for old in files_made:
            old.unlink(missing_ok=True)
        return stream

    return *files_made, start


def resumed(args: argparse.Namespace) -> Start:
    """Returns what goes on with a film, which is cut back to its state; all is checked."""
    from skyreels_jax.pipelines import files, fragments, load
    from skyreels_jax.pipelines.state import read_state
    from skyreels_jax.pipelines.stream_request import resumed_request

    fixed = [*flags.given_options(args, (*OPTIONS, "resolution")), *["overwrite"] * args.overwrite]
    if fixed:
        raise UserError(
            f"--resume goes on with the film as it was begun; leave out --{fixed[0]} "
            "(legal: --seconds, --out, --model_id)"
        )
    state = read_state(args.resume)
    source = load.find(args.model_id or state.recipe.model_id)
    request = resumed_request(source, state, seconds=args.seconds)
    path = checked(args.out or args.resume.with_suffix(".mp4"))
    files.check_writable(path.parent)
    fragments.cut(path, state.frames)

    def start(progress: Any) -> "FilmStream":
        model = source.load(dtype=request.dtype)
        return model.resume(state, seconds=args.seconds, progress=progress)

    return path, args.resume, start


def make(
    stream: "FilmStream", path: pathlib.Path, state_path: pathlib.Path, report: Callable
) -> None:
    """Makes the film at `path`; whatever stops it, whole windows and their state are left."""
    from skyreels_jax.pipelines import fragments

    kept, before, started = stream.frames, stream.frames, time.monotonic()
    try:
        for frames in stream:
            fragments.append(path, frames, stream.fps, at=stream.frames - len(frames))
            state = stream.state
            if state is None:  # a part of the video that the film continues
                before = stream.frames
                continue
            state.save(state_path)
            kept = stream.frames
            rate = (kept - before) / stream.fps / (time.monotonic() - started)
            whole = stream.num_frames
            goal = "" if whole is None else f" of {whole / stream.fps:.1f} s"
            report(f"{stream.seconds:.1f} s{goal}, {rate:.3g} seconds made a second")
    except BaseException:
        if kept:
            fragments.cut(path, kept)
            command = shlex.join(["skyreels-jax", "stream", "--resume", str(state_path)])
            report(f"{path} has {kept / stream.fps:.1f} s; go on with: {command}")
        else:
            path.unlink(missing_ok=True)
        raise


def checked(path: pathlib.Path) -> pathlib.Path:
    """Returns the path of a film that can be written here; `UserError` otherwise."""
    from skyreels_jax.pipelines import film

    if path.suffix.lower() != ".mp4":
        raise UserError(f"cannot let a film grow as {path.name!r}; legal ending: .mp4")
    film.film_writer(path)
    return path
