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
)
def test_a_prompt_that_no_window_shows_is_refused(lengths, share, frames, video):
    starts = list(itertools.accumulate(lengths, initial=0.0))
    segments = tuple((start, f"prompt {i}") for i, start in enumerate(starts))
    story = Story(segments=segments, crossfade=share * min(lengths, default=0.0))
    film = FilmPlan(
        num_frames=None if frames is None else 4 * frames + 13,
        base_num_frames=33,
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
