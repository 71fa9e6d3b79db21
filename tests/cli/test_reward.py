"""A reward model from pairs to judgement: `train` with kind "reward", `evaluate --benchmark
reward`, and what both refuse.
"""

import csv
import json
import pathlib
import shutil

import imageio.v3 as iio
import numpy as np
import pytest

from skyreels_jax.cli.main import main
from skyreels_jax.cli.train import read_config, resolved
from skyreels_jax.core.errors import UserError
from skyreels_jax.core.types import ALL_ROWS
from skyreels_jax.data.preferences.distortions import distort
from skyreels_jax.data.preferences.preferences_dataset_builder import preferences
from skyreels_jax.data.preferences.records import Preference
from skyreels_jax.data.preferences.subsets import without
from skyreels_jax.data.toy_film.render import render
from skyreels_jax.data.toy_film.world import sample_scene
from skyreels_jax.models.reward.load import load_reward

CONFIG = """
import ml_collections

def get_config():
    return ml_collections.ConfigDict({
        "kind": "reward",
        "out": "%(root)s/reward",
        "model": {
            "num_frames": 9, "size": 64, "patch": 8, "motion_dim": 16, "width": 16,
            "num_heads": 2, "ffn_dim": 32, "num_layers": 1,
        },
        "objective": {"k": 5.0},
        "data": {"pairs": "%(root)s/pairs"},
        "stages": ({"steps": 60, "batch": 16},),
        "optimizer": {
            "name": "adam", "adam_learning_rate": 5e-3, "warmup_steps": 5, "decay_start": 1.0,
        },
        "log_every": 20,
        "save_every": 100,
    })
"""
SCORES = {"text_alignment": (1.0, 1.0), "visual_quality": (20.0, 20.0)}


def pair(number, kind):
    """A pair; every seventh is a tie, and of every fifth the sides are swapped."""
    clip = render(sample_scene(number), 9)
    sides = [clip, distort(kind, clip, strength=1.0, seed=number)]
    label = "tie" if number % 7 == 6 else "worse" if number % 5 == 4 else "better"
    chosen, rejected = sides[::-1] if label == "worse" else sides
    return Preference(
        id=f"{kind}-{number}",
        chosen=chosen,
        rejected=rejected,
        label=label,
        source=kind,
        prompt="",
        scores=SCORES,
        strength=1.0,
    )


def made(numbers):
    return lambda: (pair(n, ("jitter", "shape_morphing")[n % 2]) for n in numbers)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A folder of 16 pairs, a model trained on them, and one trained without jitter."""
    root = tmp_path_factory.mktemp("reward")
    splits = {"train": made(range(16)), "held_out": made(range(20, 26))}
    preferences(root / "pairs", name="few", shape=(9, 64, 64), splits=splits).download_and_prepare()
    (root / "config.py").write_text(CONFIG % {"root": root})
    train = ["train", "--config", str(root / "config.py")]
    assert main(train) == 0
    few = ["--set", "stages=[{'steps': 1, 'batch': 16, 'frames': 5}]", "--set", "seed=1"]
    without_jitter = ["--out", str(root / "without" / "jitter")]
    assert main([*train, *few, *without_jitter, "--set", "data.left_out=('jitter',)"]) == 0
    return root


def test_it_learns_its_pairs_by_heart(root):
    with (root / "reward" / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    # As long as nothing is known every outcome has its share: ln 6 for a side, ln 1.5 for a tie.
    assert float(rows[0]["loss"]) > float(rows[-1]["loss"])
    assert float(rows[-1]["accuracy_decisive"]) == 1
    assert float(rows[-1]["loss"]) < 0.5


def test_the_export_is_normalised_over_its_pairs(root):
    model = load_reward(root / "reward")
    assert model.card.left_out == () and model.card.k == 5
    records = without([str(root / "pairs")], ())
    clips = np.stack([records[i][side] for i in range(16) for side in ("chosen", "rejected")])
    scores = model.score(clips)
    assert scores.mean() == pytest.approx(0, abs=1e-3)
    assert scores.std() == pytest.approx(1, abs=1e-3)


def test_kinds_are_left_out(root):
    assert load_reward(root / "without" / "jitter").card.left_out == ("jitter",)
    kept = without([str(root / "pairs")], ("jitter",))
    assert len(kept) == 8 and {kept[i]["source"] for i in range(8)} == {b"shape_morphing"}


def test_several_sets_are_one(root):
    both = without([str(root / "pairs")] * 2, ())
    assert len(both) == 2 * len(without([str(root / "pairs")], ()))
    assert len(without([str(root / "pairs")] * 2, ("jitter",))) == 16


def test_a_run_goes_on_with_its_own_pairs_alone(tmp_path):
    (tmp_path / "config.py").write_text(CONFIG % {"root": tmp_path})

    def written(numbers):
        shutil.rmtree(tmp_path / "pairs", ignore_errors=True)
        few = {"name": "few", "shape": (9, 64, 64), "splits": {"train": made(numbers)}}
        preferences(tmp_path / "pairs", **few).download_and_prepare()

    def opened():
        recipe, config = resolved(read_config(str(tmp_path / "config.py")), [])
        return iter(recipe.loader(config)(config.stages[0], 0, ALL_ROWS))

    written(range(16))
    first = opened()
    next(first)
    state = json.loads(json.dumps(first.get_state()))
    again = opened()
    again.set_state(state)
    np.testing.assert_array_equal(next(again)["chosen"], next(first)["chosen"])
    written(range(1, 18))
    with pytest.raises(UserError, match="16 pairs of .* -> 17 pairs .* the sets of pairs as they"):
        opened().set_state(state)


def evaluate(root, out, *argv):
    where = ["--model", str(root / "reward"), "--pairs", str(root / "pairs"), "--num", "2"]
    return main(["evaluate", "--benchmark", "reward", *where, "--outdir", str(out), *argv])


def test_the_benchmark(root, micro_folder, tmp_path, capfd):
    small = ("--resolution", "64x64", "--inference_steps", "1", "--per_prompt", "2")
    more = ("--left_out", str(root / "without"), "--films", str(micro_folder), *small)
    more += ("--seed", "2")  # a subject that stays still, and one that moves
    assert evaluate(root, tmp_path / "out", *more) == 0
    text, _ = capfd.readouterr()
    names = ["reward.json", "reward.png", "reward_sheet.png"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == names
    assert iio.imread(tmp_path / "out" / "reward.png").shape[1] == 1660
    found = json.loads((tmp_path / "out" / "reward.json").read_text())
    assert found["split"] == "held_out" and found["all"]["pairs"] == len(found["records"]) == 6
    assert found["all"]["ties"] == 1 and set(found["kinds"]) == {"jitter", "shape_morphing"}
    assert set(found["left_out"]) == {"jitter"} and found["left_out"]["jitter"]["pairs"] == 3
    assert found["strength"]["strengths"] == [0, 0.25, 0.5, 0.75, 1]
    assert set(found["strength"]["spearman"]) > {"time_reversal", "freeze", "all"}
    assert found["films"]["films"] == 2
    assert found["films"]["pairs"] + found["films"]["unclear"] == 1
    assert sum(row["pairs"] for row in found["calibration"]["three"]) == 6
    assert found["fingerprint"] == load_reward(root / "reward").fingerprint
    assert "likeliest of better, worse, tie" in text and "reward and judge prefer" in text


@pytest.mark.parametrize(
    ("kinds", "complaint"),
    [(("freeze",), "lacks freeze; no pair of --pairs is of it"), (("jitter",), "both lack jitter")],
)
def test_models_that_left_out_the_wrong_kinds_are_refused_before_scoring(
    root, tmp_path, monkeypatch, capfd, kinds, complaint
):
    for name in ("one", "two"):
        shutil.copytree(root / "without" / "jitter" / "export", tmp_path / "runs" / name / "export")
    path = tmp_path / "runs" / "two" / "export" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"left_out": kinds}))
    monkeypatch.setattr("skyreels_jax.cli.reward_benchmark.scored", None)
    assert evaluate(root, tmp_path / "out", "--left_out", str(tmp_path / "runs")) == 2
    assert complaint in capfd.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("argv", "complaint"),
    [
        (("--pairs", "/none"), "'/none' holds no preferences"),
        (("--model", "/none"), "/none holds no reward model"),
        (("--left_out", "/none"), "/none holds no runs of reward models"),
        (("--left_out", "ROOT"), "reward/export was trained on all kinds"),
        (("--rows", "1"), "--rows must be 2 or more"),
        (("--num", "0"), "number of films must be 1 or more"),
        (("--per_prompt", "2"), "--per_prompt is for films"),
        (("--batch", "2"), "--batch is for films"),
        (("--films", "tiny", "--per_prompt", "1"), "--per_prompt must be 2 or more"),
        (("--films", "tiny", "--seed", "3"), "the reward model sees 5, 9 frames"),
        (("--films", "tiny", "--seed", "0"), "every subject of --prompts stays still"),
        (("--num_frames", "9"), "--num_frames is for --benchmark clips"),
        (("--benchmark", "clips"), "--pairs is for --benchmark reward"),
    ],
)
def test_bad_input_of_the_benchmark(root, tmp_path, capfd, argv, complaint):
    argv = [str(root) if text == "ROOT" else text for text in argv]
    assert evaluate(root, tmp_path / "out", *argv) == 2
    error = capfd.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("skyreels-jax: ") and complaint in error
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("setting", "complaint"),
    [
        ("data.pairs=", "data.pairs: name a set of pairs"),
        ("data.pairs=/none", "'/none' holds no preferences"),
        ("data.pairs=/none,/nothing", "'/none' holds no preferences"),
        ("data.split=test", "has no split 'test'; legal: train, held_out"),
        ("data.left_out=('melt',)", "no pair is of the kind 'melt'"),
        ("data.left_out=('jitter', 'shape_morphing')", "no pair is left"),
        ("data.fps=12", "reward reads data.pairs, split, left_out: leave out data.fps"),
        ("mesh.tensor=2", "reward has no transformer: leave out mesh.tensor"),
        ("objective.k=1", "more than 1"),
        ("model.width=15", "multiple of num_heads"),
        ("model.num_frames=5", "the reward model sees 5 frames of 64x64; got 9"),
        ("stages=[{'steps': 1, 'batch': 2, 'size': 32}]", "leave size out"),
        ("stages=[{'steps': 1, 'batch': 2, 'frames': 13}]", "wants 13 of 9 frames"),
    ],
)
def test_bad_input_of_training(root, capfd, setting, complaint):
    out = root / "bad"
    args = ["--config", str(root / "config.py"), "--out", str(out), "--set", setting]
    assert main(["train", *args]) == 2
    error = capfd.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("skyreels-jax: ") and complaint in error
    assert not out.exists()


def test_several_sets_in_one_folder_must_be_told_apart(tmp_path):
    from skyreels_jax.core.errors import UserError
    from skyreels_jax.data.preferences.preferences_dataset_builder import read_preferences

    for name in ("a", "b"):
        (tmp_path / "preferences" / name / "1.0.0").mkdir(parents=True)
        (tmp_path / "preferences" / name / "1.0.0" / "dataset_info.json").touch()
    with pytest.raises(UserError, match=r"several sets of pairs; name one: .*/a/1.0.0, .*/b/1"):
        read_preferences(tmp_path)


def test_a_set_that_was_not_written_to_its_end_is_none(root):
    from skyreels_jax.data.preferences.preferences_dataset_builder import split_names

    (whole,) = (root / "pairs").glob("preferences/*/1.0.0")
    begun = whole.parent / "incomplete.AB12CD_1.0.0"
    begun.mkdir()
    (begun / "dataset_info.json").touch()
    assert split_names(root / "pairs") == split_names(whole)
    shutil.rmtree(begun)


def test_the_shipped_config_is_the_default_model():
    from skyreels_jax.cli.recipes.reward import RewardRecipe
    from skyreels_jax.cli.train import read_config
    from skyreels_jax.core.config import from_dict
    from skyreels_jax.models.reward.config import RewardConfig
    from skyreels_jax.training.config import TrainConfig

    path = pathlib.Path(__file__).parents[2] / "configs" / "toy" / "reward.py"
    config = RewardRecipe().resolve(from_dict(TrainConfig, read_config(str(path))))
    assert config.model == RewardConfig() and config.objective.k == 5
