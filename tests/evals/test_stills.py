"""Scores of stills: blind to motion, not to the picture."""

import numpy as np
import pytest

from skyreels_jax.data.preferences.distortions import distort
from skyreels_jax.data.preferences.records import Limits
from skyreels_jax.data.toy_film.render import render
from skyreels_jax.data.toy_film.world import sample_scene
from skyreels_jax.evals.judge import PICTURED, judge, pictured
from skyreels_jax.evals.stills import score_stills, stills_score


@pytest.fixture(scope="module")
def film():
    return render(sample_scene(0), 9)


def gap(one, other):
    return abs(one["visual_quality"] - other["visual_quality"])


def test_wrong_motion_changes_nothing_that_is_compared(film):
    scene, limits = sample_scene(0), Limits()
    rendered = score_stills(film, scene, stills=2)
    assert rendered["text_alignment"] == 1
    for kind in ("time_reversal", "too_slow", "jitter"):
        twin = score_stills(distort(kind, film, strength=1.0, seed=0), scene, stills=2)
        assert twin["text_alignment"] == 1
        assert gap(rendered, twin) < limits.visual_quality, kind
        assert kind != "time_reversal" or twin == pytest.approx(rendered)


def test_a_worse_picture_and_another_scene_do(film):
    noise = np.random.default_rng(0).normal(0, 25, film.shape)
    noisy = np.clip(film + noise, 0, 255).astype(np.uint8)
    dull = (0.5 * film.astype(np.float32) + 64).astype(np.uint8)
    score = stills_score({"this": sample_scene(0), "other": sample_scene(3)})
    rendered = score(film, "this")
    assert gap(rendered, score(noisy, "this")) > 3
    assert score(noisy, "this")["visual_quality"] > rendered["visual_quality"]
    assert score(dull, "this")["visual_quality"] < rendered["visual_quality"] - 3
    assert score(film, "other")["text_alignment"] < 0.7


def test_a_still_is_judged_as_a_film_that_stands_still(film):
    for frame in (film[0], film[-1], np.full_like(film[0], 200)):
        verdict = judge(frame[None].repeat(5, 0))
        assert pictured(frame) == {name: getattr(verdict, name) for name in PICTURED}
