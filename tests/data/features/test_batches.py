"""Batches of one data set after another: by chance, by the seed, from any step on."""

import grain
import numpy as np

from skyreels_jax.data.features.batches import in_turns


def numbers(start):
    return grain.MapDataset.range(start, start + 50).repeat()


def taken(steps, seed, *, shares=(1.0, 3.0)):
    return in_turns([numbers(0), numbers(100)], shares, steps=steps, seed=seed)


def test_each_data_set_goes_on_where_it_was():
    found = list(taken(400, 0))
    assert len(found) == 400
    for first, values in (
        (0, [x for x in found if x < 100]),
        (100, [x for x in found if x >= 100]),
    ):
        assert values == [first + number % 50 for number in range(len(values))]
    assert 0.18 < np.mean(np.array(found) < 100) < 0.32


def test_the_order_hangs_on_the_seed_alone():
    assert list(taken(50, 3)) == list(taken(50, 3)) != list(taken(50, 4))
    assert list(taken(50, 3)) == list(taken(80, 3))[:50]


def test_a_position_is_saved_and_set():
    whole, first = list(taken(40, 1)), iter(taken(40, 1))
    seen = [next(first) for _ in range(17)]
    state = first.get_state()
    second = iter(taken(40, 1))
    second.set_state(state)
    assert seen + list(second) == whole
