"""The store of a model's own films: filled in order, resumed without loss, never mixed."""

import numpy as np
import pytest

from skyreels_jax.core.errors import UserError
from skyreels_jax.data.preferences.film_store import FilmStore

SHAPE = (2, 3, 4, 5)


def film(number):
    return np.random.default_rng(number).normal(size=SHAPE).astype(np.float32)


def score(number):
    return 0.1 * number**2


class Maker:
    """Makes film n; is interrupted in its call number `stop`."""

    def __init__(self, stop=None):
        self.asked, self.stop = [], stop

    def __call__(self, films):
        self.asked.append(films)
        if len(self.asked) == self.stop:
            raise KeyboardInterrupt
        columns = {"reward": [score(n) for n in films], "other": [-n for n in films]}
        return np.stack([film(n) for n in films]), {k: np.asarray(v) for k, v in columns.items()}


def store(folder, *, films=7, scores=("reward", "other"), expected="a"):
    return FilmStore(folder, films=films, scores=scores, expected=expected)


def check(made):
    assert made.done == made.films == 7
    want = np.stack([film(n) for n in range(7)]).astype(np.float16)
    np.testing.assert_array_equal(made.latents(), want)
    np.testing.assert_array_equal(made.column("reward"), [score(n) for n in range(7)])
    np.testing.assert_array_equal(made.column("other"), -np.arange(7))


def test_films_are_made_in_equal_batches(tmp_path):
    made, maker = store(tmp_path), Maker()
    made.fill(maker, batch=3, title="films")
    assert maker.asked == [[0, 1, 2], [3, 4, 5], [6, 6, 6]]
    check(made)
    again = Maker()
    store(tmp_path).fill(again, batch=3, title="films")
    assert again.asked == []


@pytest.mark.parametrize("stop", [1, 2, 3])
def test_an_interrupted_fill_goes_on_where_it_was(tmp_path, stop):
    with pytest.raises(KeyboardInterrupt):
        store(tmp_path).fill(Maker(stop), batch=3, title="films")
    made, maker = store(tmp_path), Maker()
    assert made.done == 3 * (stop - 1)
    made.fill(maker, batch=3, title="films")
    assert maker.asked == [[0, 1, 2], [3, 4, 5], [6, 6, 6]][stop - 1 :]
    check(made)


def test_a_batch_that_was_half_written_is_made_again(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        store(tmp_path).fill(Maker(2), batch=3, title="films")
    torn = np.load(tmp_path / "latents.npy", mmap_mode="r+")
    torn[3:6] = 99
    torn.flush()
    made = store(tmp_path)
    made.fill(Maker(), batch=3, title="films")
    check(made)


@pytest.mark.parametrize("other", [{"expected": "b"}, {"films": 8}, {"scores": ("reward",)}])
def test_other_films_are_refused(tmp_path, other):
    store(tmp_path).fill(Maker(), batch=3, title="films")
    with pytest.raises(UserError, match="made with another model, reward or setting"):
        store(tmp_path, **other)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_scores_are_finite(tmp_path, bad):
    def make(films):
        zeros = np.zeros(len(films))
        return np.stack([film(n) for n in films]), {"reward": zeros + bad, "other": zeros}

    with pytest.raises(UserError, match="the reward of a film is not a finite number"):
        store(tmp_path).fill(make, batch=3, title="films")
    assert store(tmp_path).done == 0
