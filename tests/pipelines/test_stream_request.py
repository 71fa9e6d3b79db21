"""Stories and windows together: no prompt is left out unsaid."""

import itertools

from hypothesis import given, settings
from hypothesis import strategies as st

from skyreels_jax.core.errors import UserError
from skyreels_jax.pipelines.lengths import FilmPlan
from skyreels_jax.pipelines.story import Story
from skyreels_jax.pipelines.stream_request import check_shown

FPS = 12.0


@settings(deadline=None)
@given(
    lengths=st.lists(st.floats(0.05, 4), max_size=5),
    share=st.sampled_from([0.0, 0.301, 0.997]),
    frames=st.none() | st.integers(1, 30),
    video=st.none() | st.just(20),
    cached=st.booleans(),
)
def test_a_prompt_that_no_window_shows_is_refused(lengths, share, frames, video, cached):
    starts = list(itertools.accumulate(lengths, initial=0.0))
    segments = tuple((start, f"prompt {i}") for i, start in enumerate(starts))
    story = Story(segments=segments, crossfade=share * min(lengths, default=0.0))
    latents = None if frames is None else 3 * frames + 3 if cached else frames + 4
    film = FilmPlan(
        num_frames=None if frames is None else 4 * latents - 3,
        base_num_frames=33,
        carry="cache" if cached else "pixels",
        causal_block_size=3 if cached else 1,
        overlap_history=13,
        video_frames=video,
        inference_steps=2,
        shift=3.0,
    )
    middles = [w.middle / FPS for w in itertools.islice(film.windows(), 40)]
    shown = {prompt for middle in middles for _, prompt in story.mixture(middle)}
    try:
        check_shown(story, film, FPS)
    except UserError as error:
        (missed,) = [p for p in story.prompts if repr(p) in str(error)]
        assert missed not in shown
    else:
        assert shown == set(story.prompts)


def test_a_prompt_may_hold_in_the_first_whole_window():
    """Of a cached film whose first block has two given frames and two that are made."""
    story = Story(segments=((0.0, "one"), (39 / FPS, "other")))
    sizes = {"num_frames": None, "base_num_frames": 77, "overlap_history": 13, "video_frames": 13}
    film = FilmPlan(carry="cache", causal_block_size=5, inference_steps=2, shift=3.0, **sizes)
    assert [w.middle for w in itertools.islice(film.windows(), 4)] == [2, 14, 34, 54]
    check_shown(story, film, FPS)
