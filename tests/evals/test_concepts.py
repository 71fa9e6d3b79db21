"""Adherence by concept on films whose faults are known."""

import json

import numpy as np
import pytest

from skyreels_jax.core.errors import UserError
from skyreels_jax.data.toy_film import world
from skyreels_jax.data.toy_film.world import attributes, sample_scene
from skyreels_jax.evals.concepts import (
    Concepts,
    adherence,
    change,
    check_attribute,
    table,
    verdict,
)
from skyreels_jax.evals.judge import judge
from skyreels_jax.evals.suite import Report, Sample

COUNT = 40


@pytest.fixture(scope="module")
def verdict_of():
    """A verdict with everything in it but attributes."""
    from skyreels_jax.data.toy_film.render import render

    return judge(render(sample_scene(0), 5))


@pytest.fixture
def concepts(verdict_of):
    """Makes a setting whose every `every`-th film of a shape shows another one."""
    import dataclasses

    def make(name, every: dict[str, int]):
        samples, seen = [], dict.fromkeys(world.SHAPES, 0)
        for seed in range(COUNT):
            scene = sample_scene(seed)
            shown = attributes(scene)
            seen[scene.shape] += 1
            if every.get(scene.shape) and seen[scene.shape] % every[scene.shape] == 0:
                shown["shape"] = next(s for s in world.SHAPES if s != scene.shape)
            found = dataclasses.replace(verdict_of, **shown)
            samples.append(
                Sample(
                    scene=scene,
                    prompt="",
                    seed=seed,
                    frames=np.zeros((1, 1, 1, 3), np.uint8),
                    verdict=found,
                )
            )
        return Concepts(name=name, attribute="shape", report=Report(samples=tuple(samples)))

    return make


def test_every_concept_by_itself(concepts):
    found = concepts("a", {"ring": 2})
    summary = found.summary()
    assert list(summary) == ["ring", "square", "triangle", "all"]
    assert (
        sum(summary[shape]["films"] for shape in world.SHAPES) == summary["all"]["films"] == COUNT
    )
    rings = summary["ring"]["films"]
    share = 1 - rings // 2 / rings
    assert summary["ring"]["right"] == pytest.approx(share, abs=1e-4)
    assert summary["ring"]["adherence"] == pytest.approx((7 + share) / 8, abs=1e-4)
    assert summary["square"] == {**summary["square"], "right": 1.0, "adherence": 1.0}
    # The mean is the one that `evaluate` prints, films without a speed included.
    assert adherence(found.outcomes()) == pytest.approx(found.report.adherence["mean"])
    assert np.isnan(found.outcomes()).any()
    json.dumps(summary, allow_nan=False)


def test_a_better_setting_and_a_worse_one(concepts):
    before, after = concepts("before", {"ring": 2}), concepts("after", {"ring": 4})
    found = verdict(before, after)
    assert found["worst"] == "ring" and found["met"]
    points = 100 * (after.summary()["ring"]["right"] - before.summary()["ring"]["right"])
    assert found["right"]["value"] == pytest.approx(points, abs=0.02)
    assert found["right"]["low"] < points < found["right"]["high"]
    assert found["adherence"]["value"] > 0
    worse = verdict(before, concepts("worse", {"ring": 4, "square": 1, "triangle": 2}))
    assert worse["right"]["value"] > 5 and worse["adherence"]["value"] < -1 and not worse["met"]
    same = change(before.outcomes(), before.outcomes(), "shape")
    assert (same.value, same.low, same.high) == (0, 0, 0)  # film by film there is no difference


def test_the_table_says_all(concepts):
    before, after = concepts("before", {"ring": 2}), concepts("after", {"ring": 4})
    lines = table([before, after]).splitlines()
    assert lines[0].split() == ["shape", "films", "before", "after"]
    assert lines[2].split()[0] == "ring" and len(lines[2].split()) == 6
    assert lines[5].split()[:2] == ["all", str(COUNT)]
    assert lines[-1].startswith("worst, ring: +") and lines[-1].endswith(": met")
    assert len(table([before]).splitlines()) == 6


def test_attributes_to_group_by():
    assert check_attribute("camera_motion") == "camera_motion"
    with pytest.raises(UserError, match="'shap' is no attribute.*did you mean 'shape'"):
        check_attribute("shap")
    with pytest.raises(UserError, match="'speed' is no attribute to group by"):
        check_attribute("speed")
