"""Windows of films: their arithmetic, and refusals that name what is legal before any model."""

import itertools
import math

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from skyreels_jax.core.errors import UserError
from skyreels_jax.pipelines.lengths import FilmPlan

STEPS = {"inference_steps": 4, "shift": 8.0}
WINDOWS = {"base_num_frames": 97, "overlap_history": 17, **STEPS}
CACHE = {"base_num_frames": 97, "causal_block_size": 5, "carry": "cache", **STEPS}


def lengths(plan: FilmPlan) -> list[int]:
    return [window.plan.latent_frames for window in plan.windows()]


@pytest.mark.parametrize(
    ("num_frames", "latents"),
    [
        (97, [25]),
        (257, [25] * 3),
        (377, [25] * 4 + [15]),
        (737, [25] * 9),
        (1457, [25] * 18),
    ],
)
def test_the_lengths_of_the_official_examples(num_frames, latents):
    plan = FilmPlan(num_frames=num_frames, causal_block_size=5, ar_step=5, **WINDOWS)
    assert lengths(plan) == latents


def test_a_film_made_in_one_go():
    (window,) = FilmPlan(num_frames=121, **STEPS).windows()
    assert (window.plan.latent_frames, window.frames, window.last) == (31, 121, True)
    assert window.plan.prefix == window.plan.suffix == window.shown == 0


def test_a_short_film_needs_no_room_for_history():
    assert lengths(FilmPlan(num_frames=5, base_num_frames=9, overlap_history=17, **STEPS)) == [2]


def test_an_image_is_the_first_latent_of_the_first_window():
    first, second, *_ = FilmPlan(num_frames=257, image=True, **WINDOWS).windows()
    assert (first.plan.prefix, first.shown, first.frames) == (1, 0, 97)
    assert (second.plan.prefix, second.shown, second.frames) == (5, 5, 80)


def test_an_image_stays_whole_in_blocks():
    """The official code cuts prefixes to whole blocks, and so drops a single image."""
    plan = FilmPlan(num_frames=97, image=True, causal_block_size=5, **WINDOWS)
    assert plan.window(0).plan.prefix == 1


def test_an_end_image_is_behind_the_last_window_alone():
    windows = list(FilmPlan(num_frames=257, end_image=True, **WINDOWS).windows())
    assert [window.plan.suffix for window in windows] == [0, 0, 1]
    assert [window.plan.latent_frames for window in windows] == [25, 25, 26]
    assert sum(window.frames for window in windows) == 257


def test_a_video_is_shown_already():
    plan = FilmPlan(num_frames=177, video_frames=40, **WINDOWS)
    first, second = plan.windows()
    assert (first.plan.prefix, first.shown, first.first_frame, first.frames) == (5, 5, 0, 80)
    assert (second.first_frame, second.frames) == (80, 80)
    assert plan.new_frames == 160


def test_a_film_without_end():
    plan = FilmPlan(num_frames=None, **WINDOWS)
    assert plan.count is plan.latent_frames is plan.new_frames is None
    thousandth = plan.window(1000)
    assert (thousandth.start, thousandth.first_frame) == (20_000, 97 + 999 * 80)
    assert not thousandth.last
    assert [w.index for w in itertools.islice(plan.windows(7), 3)] == [7, 8, 9]


def test_a_window_of_a_cache_is_a_block():
    plan = FilmPlan(num_frames=257, **CACHE)
    windows = list(plan.windows())
    assert lengths(plan) == [5] * 13 and [w.start for w in windows] == [*range(0, 65, 5)]
    assert [w.frames for w in windows] == [17] + [20] * 12
    assert {(w.plan.prefix, w.shown, w.plan.rows) for w in windows} == {(0, 0, 4)}
    assert (plan.rolling, FilmPlan(num_frames=257, sink_frames=5, **CACHE).rolling) == (20, 15)
    assert FilmPlan(num_frames=None, **CACHE).window(1000).first_frame == 17 + 999 * 20


def test_blocks_that_are_given_whole_are_in_the_first_window_of_a_cache():
    plan = FilmPlan(num_frames=177, video_frames=60, overlap_history=25, **CACHE)
    first, second, *_ = plan.windows()
    assert (first.plan.latent_frames, first.plan.prefix, first.shown) == (10, 7, 7)
    assert (first.frames, first.plan.rows) == (12, 4)
    assert (second.start, second.first_frame, second.frames) == (10, 12, 20)
    assert (second.plan.prefix, second.shown) == (0, 0)


def legal_plan(options) -> FilmPlan | None:
    """Returns the plan; None where it is refused, with lengths that are legal."""
    try:
        return FilmPlan(**options)
    except UserError as error:
        near = str(error).rpartition("nearest legal: ")[2].split(" or ")
        for number in near:
            FilmPlan(**{**options, "num_frames": int(number)})
        return None


@settings(deadline=None)
@given(
    size=st.integers(1, 4),
    seen=st.integers(2, 4),
    sinks=st.integers(0, 2),
    latents=st.integers(1, 60),
    history=st.integers(1, 11),
    lead=st.sampled_from(["nothing", "image", "video"]),
)
def test_blocks_cover_every_frame_once(size, seen, sinks, latents, history, lead):
    options = {
        "num_frames": 4 * latents - 3,
        "base_num_frames": 4 * size * (seen + sinks) - 3,
        "sink_frames": sinks * size,
        "overlap_history": 4 * history - 3,
        "causal_block_size": size,
        "image": lead == "image",
        "video_frames": 60 if lead == "video" else None,
        "carry": "cache",
        **STEPS,
    }
    plan = legal_plan(options)
    if plan is None:
        return
    windows, frame, latent = list(plan.windows()), 0, 0
    assert len(windows) == plan.count and plan.rolling == (seen - 1) * size
    for window in windows:
        assert (window.first_frame, window.start) == (frame, latent)
        frame, latent = frame + window.frames, latent + window.plan.latent_frames
        assert window.plan.latent_frames - window.plan.prefix in range(1, size + 1)
        assert window.plan.latent_frames % size == 0 and window.plan.rows == 4
        assert window.last == (window is windows[-1])
    assert (frame, latent) == (plan.new_frames, latents)


def test_windows_end():
    with pytest.raises(IndexError, match="window 3 of 3"):
        FilmPlan(num_frames=257, **WINDOWS).window(3)


@settings(deadline=None)
@given(
    base=st.integers(2, 12),
    overlap=st.integers(1, 11),
    size=st.integers(1, 3),
    latents=st.integers(1, 80),
    ar_step=st.integers(0, 6),
    lead=st.sampled_from(["nothing", "image", "video"]),
    end_image=st.booleans(),
)
def test_windows_cover_every_frame_once(base, overlap, size, latents, ar_step, lead, end_image):
    base *= size
    assume(overlap < base)
    options = {
        "num_frames": 4 * latents - 3,
        "base_num_frames": 4 * base - 3,
        "overlap_history": 4 * overlap - 3,
        "causal_block_size": size,
        "ar_step": ar_step,
        "image": lead == "image",
        "end_image": end_image,
        "video_frames": 60 if lead == "video" else None,
        **STEPS,
    }
    plan = legal_plan(options)
    if plan is None:
        return
    windows = list(plan.windows())
    assert len(windows) == plan.count
    assert len(windows) == (1 if latents <= base else 2 + (latents - base - 1) // (base - overlap))
    frame = 0
    for window in windows:
        assert window.first_frame == frame
        frame += window.frames
        made = window.plan.latent_frames - window.plan.suffix
        assert window.shown < made <= base and made % size == 0
        assert window.start + made <= latents
        assert window.last == (window is windows[-1])
    assert frame == plan.new_frames
    assert window.start + made == latents


@settings(deadline=None)
@given(
    seconds=st.floats(0.01, 500), fps=st.floats(1, 60), size=st.integers(1, 5), video=st.booleans()
)
def test_seconds_are_never_cut_short(seconds, fps, size, video):
    endless = FilmPlan(
        num_frames=None,
        base_num_frames=8 * size * 4 - 3,
        overlap_history=9,
        causal_block_size=size,
        video_frames=40 if video else None,
        **STEPS,
    )
    plan = endless.lasting(seconds, fps)
    assert plan.new_frames >= math.floor(seconds * fps)
    shorter = plan.num_frames - 4
    while shorter > (9 if video else 0):
        try:
            film = FilmPlan(**{**vars(plan), "num_frames": shorter})
        except UserError:
            shorter -= 4
            continue
        assert film.new_frames < seconds * fps
        break


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_frames": 98}, "num_frames 98 is not 4k.1; nearest legal: 97 or 101"),
        ({"num_frames": 0}, "num_frames 0 is not 4k.1; nearest legal: 1$"),
        ({"base_num_frames": 100}, "base_num_frames 100 is not 4k.1; nearest legal: 97 or 101"),
        ({"overlap_history": 16}, "overlap_history 16 is not 4k.1; nearest legal: 13 or 17"),
        ({"overlap_history": 97}, "overlap_history 97 must be less than base_num_frames 97; near"),
        ({"base_num_frames": 1}, "base_num_frames 1 leaves nothing to make.*legal: 5"),
        (
            {"num_frames": 261, "causal_block_size": 5},
            "6 latent frames for the last window.*causal_block_size 5; nearest legal: 257 or 277",
        ),
        (
            {"base_num_frames": 93, "causal_block_size": 5},
            "is 24 latent frames, not a multiple of causal_block_size 5; nearest legal: 77 or 97",
        ),
        ({"num_frames": 1, "image": True}, "nothing to make after 1 given; nearest legal: 5"),
        ({"num_frames": 17, "video_frames": 90}, "nothing to make after 17 given; nearest.*: 21"),
        ({"video_frames": 12}, "has 12 frames, fewer than overlap_history 17; nearest legal: 9"),
        ({"video_frames": 90, "image": True}, "give image or video_path"),
        ({"num_frames": None, "end_image": True}, "give num_frames or seconds with end_image"),
        ({"num_frames": None, "base_num_frames": None}, "give base_num_frames"),
        ({"addnoise_condition": 1000.0}, "addnoise_condition 1000 is out of range"),
        ({"carry": "film"}, "carry 'film' is not one of cache, pixels, latents"),
        ({"sink_frames": 5}, "sink_frames 5 .* with carry 'pixels' legal: 0"),
        ({"end_image": True, **CACHE}, "see nothing that comes later; legal: no end_image"),
        ({**CACHE, "ar_step": 5}, "ar_step 5 .* legal: 0, or carry pixels or latents"),
        ({**CACHE, "sink_frames": -5}, "whole blocks of 5 latent frames; nearest legal: 0 or 5"),
        ({**CACHE, "base_num_frames": None}, "base_num_frames says how many frames a cache shows"),
        (
            {**CACHE, "base_num_frames": 17},
            "is 5 latent frames; .* at least 5 for the block, 5 before it; nearest legal: 37$",
        ),
        ({"ar_step": -1}, "ar_step -1 is out of range; legal: 0 and more"),
        ({"inference_steps": 0}, "inference_steps must be at least 1"),
    ],
)
def test_refusals(options, message):
    with pytest.raises(UserError, match=message) as caught:
        FilmPlan(**{"num_frames": 257, **WINDOWS, **options})
    assert "\n" not in str(caught.value)
