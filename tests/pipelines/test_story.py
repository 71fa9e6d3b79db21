"""Stories: prompts in files and lists, when each holds, and how they mix."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skyreels_jax.core.errors import UserError
from skyreels_jax.pipelines.story import Story, read_segments
from skyreels_jax.pipelines.story import make_story as make


def make_story(prompts, **options) -> Story:
    return make(read_segments(prompts), **options)


def test_one_prompt_holds_for_ever():
    story = make_story("a ring", seconds=None)
    assert story.mixture(0.0) == story.mixture(1e6) == ((1.0, "a ring"),)


def test_prompts_share_the_film():
    story = make_story(["a", "b", "c"], seconds=30)
    assert story.segments == ((0.0, "a"), (10.0, "b"), (20.0, "c"))
    assert [story.mixture(t)[0][1] for t in (0, 9.99, 10, 19, 29, 99)] == list("aabbcc")


def test_a_file_of_seconds(tmp_path):
    path = tmp_path / "story.txt"
    path.write_text("0: A red ring: close-up.\n\n 2.5 :  Dusk.\n")
    story = make_story(path, seconds=None)
    assert story.segments == ((0.0, "A red ring: close-up."), (2.5, "Dusk."))


def test_a_file_with_a_mark(tmp_path):
    path = tmp_path / "story.txt"
    path.write_text("0: A red ring.\n1: Dusk.\n", encoding="utf-8-sig")
    assert make_story(path, seconds=None).segments == ((0.0, "A red ring."), (1.0, "Dusk."))


def test_a_file_of_prompts(tmp_path):
    path = tmp_path / "story.txt"
    path.write_text("A red ring.\nDusk at 9:30.\n")
    assert make_story(path, seconds=4).segments == ((0.0, "A red ring."), (2.0, "Dusk at 9:30."))


def test_crossfade_is_linear_around_each_start():
    story = make_story([(0, "a"), (4, "b"), (8, "c")], seconds=None, crossfade=2)
    assert story.mixture(2.9) == ((1.0, "a"),)
    assert story.mixture(3.5) == ((0.75, "a"), (0.25, "b"))
    assert story.mixture(4.0) == ((0.5, "a"), (0.5, "b"))
    assert story.mixture(5.0) == story.mixture(7.0) == ((1.0, "b"),)
    assert story.mixture(8.5) == ((0.25, "b"), (0.75, "c"))


@settings(deadline=None)
@given(
    lengths=st.lists(st.floats(0.1, 50), min_size=1, max_size=5),
    share=st.floats(0, 1),
    second=st.floats(0, 300),
)
def test_weights_sum_to_one_and_neighbours_mix(lengths, share, second):
    starts = [sum(lengths[:i], 0.0) for i in range(len(lengths))]
    shortest = min([b - a for a, b in zip(starts, starts[1:], strict=False)], default=0.0)
    segments = tuple((start, str(i)) for i, start in enumerate(starts))
    mixed = Story(segments=segments, crossfade=share * shortest).mixture(second)
    assert abs(sum(weight for weight, _ in mixed) - 1) < 1e-9
    assert all(0 < weight <= 1 for weight, _ in mixed)
    numbers = [int(prompt) for _, prompt in mixed]
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))


@pytest.mark.parametrize(
    ("prompts", "options", "message"),
    [
        ([], {}, "missing or empty"),
        (["a", 3], {}, "pairs, got 3"),
        (["a", (3, "b")], {}, "give all prompts with the seconds"),
        ([(0, " ")], {}, "missing or empty"),
        (None, {}, "pairs, got None"),
        ([(1, "a")], {}, "starts at 1 s; legal: 0"),
        ([(0, "a"), (0, "b")], {}, "starts at 0 s after one at 0 s"),
        (["a", "b"], {"seconds": None}, "2 prompts cannot share a film without end"),
        ([(0, "a"), (9, "b")], {"seconds": 9}, "'b' starts at 9 s of a film of 9 s"),
        (["a", "b"], {"seconds": 4, "crossfade": 2.5}, "legal: 0 to 2, the seconds"),
        (["a"], {"crossfade": -1}, "crossfade -1 is out of range"),
    ],
)
def test_refusals(prompts, options, message):
    with pytest.raises(UserError, match=message):
        make_story(prompts, **{"seconds": 60, **options})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds no prompt"),
        ("0: a\nb\n", "has lines 'SECOND: PROMPT' and this one: 'b'"),
        ("5: a\n", "the first prompt starts at 5 s"),
    ],
)
def test_files_that_are_no_stories(tmp_path, text, message):
    path = tmp_path / "story.txt"
    path.write_text(text)
    with pytest.raises(UserError, match=message):
        make_story(path, seconds=60)
    with pytest.raises(UserError, match="cannot read prompts"):
        make_story(tmp_path / "absent.txt", seconds=60)
