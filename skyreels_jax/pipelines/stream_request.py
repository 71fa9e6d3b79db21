"""What may be asked of a film that is made window by window, from its start or from a state."""

import bisect
import dataclasses
import math
from typing import TYPE_CHECKING, Any

from skyreels_jax.core.config import to_dict
from skyreels_jax.core.errors import UserError
from skyreels_jax.pipelines.lengths import FilmPlan
from skyreels_jax.pipelines.state import FilmState
from skyreels_jax.pipelines.story import Story, make_story, read_segments
from skyreels_jax.pipelines.validate import Request, check_seconds

if TYPE_CHECKING:
    from skyreels_jax.pipelines.source import ModelSource

UNREPEATED = (  # in a recipe, and no option of a request that goes on from a state
    *("model_id", "fingerprint", "latents", "skyreels_jax", "jax", "device"),
    *("image", "image_sha256", "end_image", "end_image_sha256", "video_path", "video_sha256"),
)
PARTICULAR = ("num_frames", "image", "end_image", "video_frames")  # to a film, not in its recipe


def stream_request(
    source: "ModelSource", prompts: Any, *, crossfade: float | int = 0.0, **options: Any
) -> tuple[Request, Story]:
    """Returns the checked request for one film, and its story; see `VideoModel.stream`.

    Raises `UserError` for anything that cannot be made; no weights are read for it.
    """
    segments = read_segments(prompts)
    first = segments[0] if isinstance(segments[0], str) else segments[0][1]
    request = source.request(prompt=first, endless=True, **options)
    frames = request.film.new_frames
    seconds = None if frames is None else frames / request.fps
    story = make_story(segments, seconds=seconds, crossfade=crossfade)
    check_shown(story, request.film, request.fps)
    source.check_texts(story.prompts)
    return request, story


def resumed_request(
    source: "ModelSource", state: FilmState, *, seconds: float | int | None = None
) -> Request:
    """Returns the request that goes on from `state`, for a film of `seconds` if given.

    Raises `UserError` for the state of another model, of a film that is complete or has more
    seconds already, and for one whose windows its recipe does not make.
    """
    recipe = state.recipe
    if recipe.fingerprint != source.fingerprint:
        raise UserError(
            f"the state is of a film by {recipe.model_id} with weights {recipe.fingerprint}, "
            f"{source.model_id} has {source.fingerprint}; give the model it was begun with"
        )
    if state.complete:
        raise UserError(
            f"the film of this state is complete ({state.frames} frames); "
            "to make it longer, continue it with video_path"
        )
    options = {name: value for name, value in to_dict(recipe).items() if name not in UNREPEATED}
    request = source.request(**options | {"num_frames": state.film.base_num_frames})
    _check_state(state, request.film)
    film = state.film if seconds is None else _lasting(state, seconds)
    if film.count is not None:
        state.story.check_seconds(film.new_frames / recipe.fps)
    check_shown(state.story, film, recipe.fps)
    return dataclasses.replace(request, film=film)


def check_shown(story: Story, film: FilmPlan, fps: float) -> None:
    """Raises `UserError` for a prompt that holds in the middle of no window of `film`."""

    def middle(index: int) -> float:
        return film.window(index).middle / fps

    count = film.count
    if count is None:  # those that come before the last prompt, and the first that shows it
        count = 3 + int(story.segments[-1][0] * fps / film.window(1).frames)
    for index, prompt in enumerate(story.prompts):
        start, end = story.span(index)
        # Where prompts cross-fade, the share of the new one at `start` still is none.
        search = bisect.bisect_right if story.crossfade else bisect.bisect_left
        first = search(range(count), start, key=middle)
        near = [middle(i) for i in (first - 1, first) if 0 <= i < count]
        if first == count or near[-1] >= end:
            till = "" if end == math.inf else f" to {end:g} s"
            raise UserError(
                f"the prompt {prompt[:40]!r} would not be shown: it holds from {max(start, 0):g} s"
                f"{till}, and windows show what holds in their middle, here at "
                f"{' and '.join(f'{second:.4g}' for second in near)} s"
            )


def _check_state(state: FilmState, wanted: FilmPlan) -> None:
    """Raises `UserError` if the windows of `state` are not those `wanted` by its own recipe."""
    for name in (field.name for field in dataclasses.fields(FilmPlan)):
        ours, theirs = getattr(wanted, name), getattr(state.film, name)
        if name not in PARTICULAR and ours != theirs:
            raise UserError(
                f"the state is damaged: its windows have {name} {theirs}, its recipe {ours}"
            )
    made = state.film.window(state.index - 1) if state.index > 0 else None
    before = state.film.video_frames or 0
    if made is None or state.frames != before + made.first_frame + made.frames:
        raise UserError("the state is damaged: its parts are of different films")


def _lasting(state: FilmState, seconds: float | int) -> FilmPlan:
    fps, end = state.recipe.fps, state.film.end_image
    film = dataclasses.replace(state.film, end_image=False).lasting(check_seconds(seconds), fps)
    if film.count <= state.index:
        before = state.film.window(state.index - 1)
        made = (before.first_frame + before.frames) / fps
        raise UserError(f"{made:g} seconds are made already; legal: seconds above that")
    return dataclasses.replace(film, end_image=end)
