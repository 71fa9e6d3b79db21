"""Films of texts that are kept while they are made."""

import numpy as np
import pytest

from skyreels_jax.data.preferences.judged import Told
from skyreels_jax.data.preferences.told_store import kept


def told(number: int) -> Told:
    films = [np.full((5, 4, 4, 3), 10 * number + k, np.uint8) for k in range(2)]
    return Told(f"train-{number}", f"a ring, {number}", films, [0.25 * number, 0.5])


def make(first: int, *, stop: int = 3):
    for number in range(first, 3):
        if number == stop:
            raise KeyboardInterrupt
        yield told(number)


def test_what_was_made_before_a_stop_is_not_made_again(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        list(kept(tmp_path / "train", lambda first: make(first, stop=2)))
    asked = []
    whole = list(kept(tmp_path / "train", lambda first: asked.append(first) or make(first)))
    assert asked == [2] and len(whole) == 3
    for found, expected in zip(whole, map(told, range(3)), strict=True):
        assert (*found[:2], found.motion) == (*expected[:2], expected.motion)
        np.testing.assert_array_equal(found.films, expected.films)
    assert not list(tmp_path.rglob("*.partial"))
