"""Clips that move badly: which, how, and in the training set alone."""

import numpy as np
import pytest

from skyreels_jax.core.errors import UserError
from skyreels_jax.data.toy_film.faults import FAULTS, sample_fault
from skyreels_jax.data.toy_film.render import render
from skyreels_jax.data.toy_film.toy_film_dataset_builder import toy_film
from skyreels_jax.data.toy_film.world import sample_scene


def test_a_share_of_the_films_has_faults_of_every_kind():
    drawn = [sample_fault(seed, share=0.4) for seed in range(2000)]
    faults = [fault for fault in drawn if fault]
    assert len(faults) / len(drawn) == pytest.approx(0.4, abs=0.03)
    assert {(f.kind, f.strength) for f in faults} == set(FAULTS)
    assert [sample_fault(seed, share=0.4) for seed in range(50)] == drawn[:50]
    # A larger share has the faults of a smaller one.
    some = {seed for seed in range(200) if sample_fault(seed, share=0.2)}
    assert some < {seed for seed in range(200) if sample_fault(seed, share=0.6)}
    assert not any(sample_fault(seed, share=0.0) for seed in range(50))


def test_the_data_set_has_them_where_models_learn_from_it(tmp_path):
    builder = toy_film(tmp_path, num_clips=8, num_frames=9, num_sentences=1, faults=0.5)
    builder.download_and_prepare()
    assert "faults0.5" in str(builder.data_dir)
    bad = 0
    for split in ("train", "held_out"):
        for record in builder.as_data_source(split=split):
            seed = int(record["seed"])
            clip = render(sample_scene(seed, split), 9)
            if split == "train" and (fault := sample_fault(seed, share=0.5)):
                clip, bad = fault.of(clip), bad + 1
            np.testing.assert_array_equal(record["video"], clip)
    assert 0 < bad < 8


def test_a_share_that_is_none_is_refused(tmp_path):
    with pytest.raises(UserError, match="faults is a share of films, 0 to 1"):
        toy_film(tmp_path, faults=1.5)
