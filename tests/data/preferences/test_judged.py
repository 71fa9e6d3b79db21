"""A model's own films, compared: which pairs have a label, and which."""

import numpy as np
import pytest

from skyreels_jax.core.errors import UserError
from skyreels_jax.data.preferences.judged import Told, Verdicts, judged_pairs


def film(number):
    return np.random.default_rng(number).integers(0, 256, (5, 4, 4, 3), np.uint8)


def told(*motion, name="a"):
    return Told(name, f"text {name}", [film(i) for i in range(len(motion))], motion)


def score(video, prompt):
    return {"text_alignment": 1.0, "visual_quality": float(video.mean())}


def made(*some, seed=0, **verdicts):
    return list(judged_pairs(some, Verdicts(**verdicts), score=score, seed=seed))


def test_the_better_film_is_chosen_and_what_is_not_clear_has_no_label():
    pairs = made(told(0.30, 0.75, 0.70, 0.301))
    found = {pair.id: (pair.label, pair.source, pair.prompt) for pair in pairs}
    clear = dict.fromkeys(("a/1-0", "a/2-0", "a/1-3", "a/2-3"), ("better", "films", "text a"))
    assert found == {**clear, "a/3-0": ("tie", "films", "text a")}  # 0.75 and 0.70: neither
    for pair in pairs:
        first, second = map(int, pair.id[2:].split("-"))
        np.testing.assert_array_equal(pair.chosen, film(first))
        np.testing.assert_array_equal(pair.rejected, film(second))
        assert pair.scores["visual_quality"] == (film(first).mean(), film(second).mean())


def test_a_text_has_at_most_so_many_pairs_drawn_by_the_seed():
    many = [told(*np.arange(6) / 5, name=name) for name in "ab"]
    ids = [pair.id for pair in made(*many, most=4)]
    assert [name[0] for name in ids] == ["a"] * 4 + ["b"] * 4
    assert ids == [pair.id for pair in made(*many, most=4)]
    assert ids != [pair.id for pair in made(*many, most=4, seed=1)]
    assert len({name[2:] for name in ids}) > 4  # others of the second text
    assert len(made(*many, most=99)) == 30


def test_films_that_are_the_same_are_no_pair():
    same = Told("a", "text", [film(0), film(0), film(1)], (0.5, 0.5, 0.1))
    assert [pair.id for pair in made(same)] in (["a/0-2", "a/1-2"], ["a/1-2", "a/0-2"])


@pytest.mark.parametrize("verdicts", [{"clear": 0.0}, {"alike": 0.2}, {"most": 0}])
def test_verdicts_that_make_no_sense(verdicts):
    with pytest.raises(UserError, match="0 <= alike < clear and most >= 1"):
        made(told(0.1, 0.9), **verdicts)
