"""`skyreels-jax train` of kind flow_dpo: two tiny stages, stopped everywhere, and the guards."""

import dataclasses
import json
import os
import shutil
import signal

import handmade_rewards
import jax
import numpy as np
import pytest
from flax import nnx

from skyreels_jax.checkpoint import Checkpoints, restore_params
from skyreels_jax.cli.main import main
from skyreels_jax.cli.recipes import own_films, stages
from skyreels_jax.core.config import to_dict
from skyreels_jax.data.preferences.ranked import ToldPair
from skyreels_jax.evals.axes import AXES
from skyreels_jax.models import layout
from skyreels_jax.testing.micro import micro_configs, random_params

CONFIG = """
import ml_collections

def get_config():
    return ml_collections.ConfigDict({
        "kind": "flow_dpo",
        "out": "%(root)s/out",
        "start": "%(root)s/start",
        "seed": 3,
        "model": %(model)s,
        "objective": {"beta": 2.0, "velocity": {"caption_dropout": 0.25}},
        "data": {"vae": "%(root)s/vae", "num_frames": 5},
        "stages": ({"steps": 4, "batch": 2},),
        "optimizer": {"name": "adam", "adam_learning_rate": 1e-3, "warmup_steps": 1},
        "ema_decay": 0.5,
        "log_every": 1,
        "save_every": 2,
        "preferences": {
            "reward": "handmade_rewards:Brightness",
            "stages": 2,
            "prompts": 2,
            "films_per_prompt": 2,
            "batch_size": 3,
            "inference_steps": 1,
            "guidance_scale": 1.0,
            "plateau": {"window": 2},
            "guards": {"films": 2, "adherence": 1.0, "consistency": 1.0, "quality": 99.0},
        },
    })
"""
BLANK = 1  # before all others, to see whether the reward can see such films
SCORED = [3, 3, 3]  # films of a stage: 8 in batches of 3, the last filled up


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A run of random weights with its VAE, and a config that goes on from it."""
    root = tmp_path_factory.mktemp("dpo")
    configs = micro_configs()
    layout.save_component(root / "vae", "vae", configs["vae"], random_params("vae", configs["vae"]))
    model = {name: configs[name] for name in ("transformer", "text_encoder")}
    params = {name: random_params(name, config) for name, config in model.items()}
    saved = {"kind": "text_to_video", "model": to_dict(model), "objective": {}, "flow_shift": 3.0}
    saved |= {"data": {"vae": str(root / "vae"), "num_frames": 5, "middle": 0.0}, "stages": []}
    with Checkpoints(root / "start" / "checkpoints") as checkpoints:
        checkpoints.save(7, {"params": params, "ema": None}, data={}, config=saved)
    text = CONFIG % {"root": root, "model": repr(to_dict(model))}
    (root / "flow_dpo.py").write_text(text)
    return root


def train(root, out, *args):
    return main(["train", "--config", str(root / "flow_dpo.py"), "--out", str(out), *args])


def weights(out, stage):
    """The averaged weights of a stage."""
    configs = micro_configs()
    like = {
        name: layout.abstract_model(name, configs[name])[1]
        for name in ("transformer", "text_encoder")
    }
    return restore_params(out / f"stage_{stage}", like)


def rows(out):
    return json.loads((out / "stages.json").read_text())["stages"]


@pytest.fixture(scope="module")
def whole(root):
    """A run that nothing disturbs."""
    handmade_rewards.CALLS.clear()
    assert train(root, root / "whole") == 0
    return root / "whole"


def test_stages_go_from_films_to_an_export(root, whole, capfd):
    # Films are made and scored once for each stage, and measured before the first and after each.
    assert [BLANK, 3, *SCORED, 3, *SCORED, 3] == handmade_rewards.CALLS
    first, *trained = rows(whole)
    assert first["stage"] == 0 and {"reward", "motion", "adherence", "quality"} <= set(first)
    for stage, row in enumerate(trained, 1):
        assert (row["stage"], row["steps"]) == (stage, 4)
        assert row["pairs"] + row["dropped"] == 4 and row["pairs"] > 0
        assert 0 <= row["implicit_accuracy"] <= 1 and row["drift"] > 0
        # The reference is the learner of the stage before: the first step finds nothing but ties.
        log = (whole / f"stage_{stage}" / "metrics.csv").read_text().splitlines()
        found = dict(zip(log[0].split(","), log[1].split(","), strict=True))
        assert float(found["loss"]) == pytest.approx(np.log(2), abs=1e-3)
        assert float(found["implicit_accuracy"]) == 0.5
        latents = np.load(whole / f"stage_{stage}" / "films" / "latents.npy")
        assert latents.shape == (8, 2, 8, 8, 4) and latents.dtype == np.float16
    same = jax.tree.map(np.array_equal, weights(whole, 1), weights(whole, 2))
    assert not all(jax.tree.leaves(same))
    exported = layout.read_folder(whole / "export")
    assert exported.pipeline == layout.PIPELINES[False]
    made = layout.load_component(exported.components["transformer"], dtype="float32")
    made = nnx.to_pure_dict(nnx.state(made, nnx.Param))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=2e-3, rtol=1e-3),
        made,
        weights(whole, 2)["transformer"],
    )


def test_a_finished_run_does_no_stage_again(root, whole, capfd):
    handmade_rewards.CALLS.clear()
    shutil.rmtree(whole / "export")
    assert train(root, whole, "--export_only") == 0
    assert handmade_rewards.CALLS == [] and (whole / "export" / "model_index.json").is_file()
    assert train(root, whole, "--set", "seed=4") == 2
    assert "seed: 3 -> 4: not in a run that has finished stage 2" in capfd.readouterr().err


def test_the_export_lies_as_far_from_the_start_as_it_is_told(root, whole, capfd):
    told = ["--export_only", "--export_dtype", "float32", "--set", "preferences.share=0.25"]
    assert train(root, whole, *told) == 0
    assert "preferences.share: 1.0 -> 0.25" in capfd.readouterr().err
    last = weights(whole, 2)
    first = restore_params(root / "start", last)
    for name in ("transformer", "text_encoder"):
        component = layout.read_folder(whole / "export").components[name]
        made = nnx.to_pure_dict(nnx.state(layout.load_component(component, dtype="float32")))
        jax.tree.map(
            lambda a, b, c: np.testing.assert_allclose(a, b + 0.25 * (c - b), rtol=1e-5, atol=1e-6),
            made,
            first[name],
            last[name],
        )
    assert train(root, whole, "--set", "preferences.share=0") == 2
    assert "preferences.share lies above 0, and is 1 at most" in capfd.readouterr().err
    lora = ["--set", "lora={'rank': 2, 'alpha': 4.0}", "--set", "preferences.share=0.5"]
    assert train(root, root / "none", *lora) == 2
    assert "preferences.share is 1 with lora: adapters are exported whole" in capfd.readouterr().err


@pytest.mark.slow  # in the default run: the stops of the store of films and of the loop
def test_a_run_stopped_everywhere_comes_to_the_same(root, whole, monkeypatch):
    out = root / "stopped"
    handmade_rewards.CALLS.clear()
    # While the start model is measured; in the second batch of the films of stage 1; while stage 1
    # is measured; in the first batch of the films of stage 2.
    monkeypatch.setattr(handmade_rewards, "INTERRUPT", [2, 6, 11, 14])
    for _ in range(2):
        assert train(root, out) == 130
    map_pair, seen = ToldPair.random_map, []

    def stop_in_training(self, element, rng):
        seen.append(1)
        if len(seen) == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return map_pair(self, element, rng)

    monkeypatch.setattr(ToldPair, "random_map", stop_in_training)
    assert train(root, out) == 0
    assert seen and not (out / "stage_1" / "measured").exists()
    monkeypatch.setattr(ToldPair, "random_map", map_pair)
    for _ in range(2):
        assert train(root, out) == 130
    assert len(rows(out)) == 2
    assert train(root, out) == 0
    # No finished batch of films was made again.
    assert len([films for films in handmade_rewards.CALLS if films != BLANK]) == 9 + 4
    for stage in (1, 2):
        jax.tree.map(np.testing.assert_array_equal, weights(out, stage), weights(whole, stage))
    for row, other in zip(rows(out), rows(whole), strict=True):
        assert row.keys() == other.keys()
        for name in row.keys() - {"stopped"}:
            assert row[name] == pytest.approx(other[name], rel=1e-5)


def test_an_axis_that_falls_ends_the_run_and_the_last_good_stage_is_the_result(
    root, whole, monkeypatch, capfd
):
    out, fall = root / "fallen", [0.0]
    shutil.copytree(whole, out, ignore=shutil.ignore_patterns("export", "measured"))
    saved = json.loads((out / "stages.json").read_text())
    saved["stages"] = saved["stages"][:2]
    (out / "stages.json").write_text(json.dumps(saved).replace(str(whole), str(out)))
    measured = stages._measured

    def worse(recipe, config, reward, stage):
        row = measured(recipe, config, reward, stage)
        return row | {"adherence": saved["stages"][0]["adherence"] - fall[0]}

    monkeypatch.setattr(stages, "_measured", worse)
    fall[0] = 0.5
    quick = ["--set", "preferences.guards.adherence=0.4"]
    assert train(root, out, *quick) == 0
    said = capfd.readouterr().err
    assert "stage 2: adherence fell from" in said and "stage 1 is the result" in said
    assert "by more than 0.4 (preferences.guards.adherence)" in said
    assert [bool(row["stopped"]) for row in rows(out)] == [False, False, True]
    made = layout.load_component(
        layout.read_folder(out / "export").components["transformer"], dtype="float32"
    )
    kernel = nnx.to_pure_dict(nnx.state(made, nnx.Param))["head"]["kernel"]
    np.testing.assert_allclose(
        kernel, weights(whole, 1)["transformer"]["head"]["kernel"], atol=2e-3
    )
    # Given again, it trains no further.
    handmade_rewards.CALLS.clear()
    assert train(root, out, *quick) == 0 and handmade_rewards.CALLS == []


def test_what_would_be_exported_is_what_is_measured(root, whole, monkeypatch):
    out, measured, films = root / "candidates", [], stages._films
    shutil.copytree(whole, out, ignore=shutil.ignore_patterns("export", "measured"))
    saved = json.loads((out / "stages.json").read_text())
    saved["stages"] = saved["stages"][:2]
    (out / "stages.json").write_text(json.dumps(saved).replace(str(whole), str(out)))

    def spy(*args, place, folder, **options):
        if folder.name == "measured":
            measured.append(place)
        return films(*args, place=place, folder=folder, **options)

    monkeypatch.setattr(stages, "_films", spy)
    told = ["--export_dtype", "float32", "--set", "preferences.share=0.25"]
    assert train(root, out, *told) == 0
    assert measured == [str(out / "stage_2" / "export")]
    kernels = []
    for folder in (out / "stage_2", out):
        component = layout.read_folder(folder / "export").components["transformer"]
        made = nnx.to_pure_dict(nnx.state(layout.load_component(component, dtype="float32")))
        kernels.append(made["head"]["kernel"])
    np.testing.assert_array_equal(*kernels)
    whole_way = weights(out, 2)["transformer"]["head"]["kernel"]
    assert not np.allclose(kernels[0], whole_way, rtol=0, atol=1e-5)


@pytest.mark.parametrize("sign", [1, -1])
def test_no_film_is_preferred_that_is_worse_in_what_is_not_motion(
    root, whole, tmp_path, monkeypatch, capfd, sign
):
    def axes(video, scene):  # consistency rises with the reward, or falls
        return dict.fromkeys(AXES, 0.5) | {"consistency": sign * video.mean() / 255}

    monkeypatch.setattr(own_films, "score_axes", axes)
    told = ["preferences.not_worse={'consistency': 0.0}", "preferences.stages=1"]
    changes = [part for change in told for part in ("--set", change)]
    code = train(root, tmp_path / "out", *changes)
    if sign < 0:
        assert code == 2
        assert "better ones are worse in what is not motion" in capfd.readouterr().err
        return
    assert code == 0
    assert [row.get("pairs") for row in rows(tmp_path / "out")] == [None, rows(whole)[1]["pairs"]]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["objective.beta=0.0"], "objective.beta must be more than 0 and finite, got 0"),
        (["objective.velocity.shift=-1.0"], "shift must be positive"),
        (["model.transformer.inject_sample_info=True"], "inject_sample_info must be False"),
        (["start="], "start: name the folder of the run"),
        (["start=./run/nowhere"], "./run/nowhere holds no checkpoints; train that run first"),
        (["data.vae=/nowhere"], "no diffusers VAE folder"),
        (["data.num_frames=1"], "needs 5 frames or more"),
        (["data.middle=0.5"], "leave out data.middle"),
        (["data.turns=0.5"], "reads data.vae, num_frames, fps, rates: leave out data.turns"),
        (["data.balance.attribute=shape"], "leave out data.balance"),
        (["preferences.films=run/nowhere"], "run/nowhere is no run in stages (no stages.json)"),
        (["stages=[{'steps': 1, 'batch': 2}, {'steps': 1, 'batch': 2}]"], "one entry in stages"),
        (["preferences.stages=0"], "stages, prompts and batch_size of 1 or more"),
        (["preferences.films_per_prompt=1"], "films_per_prompt of 2 or more"),
        (["preferences.plateau.window=0"], "a plateau needs window"),
        (["preferences.plateau.metric=accuracy"], "'accuracy' is not measured; did you mean"),
        (["preferences.guards.films=0"], "films is 1 or more"),
        (["preferences.guards.quality=-0.5"], "how far each may fall: 0 or more"),
        (["preferences.not_worse={'quality': -1.0}"], "how far each may fall: 0 or more"),
        (["preferences.not_worse={'motion': 1.0}"], "legal: adherence, consistency, quality"),
        (["preferences.inference_steps=0"], "inference_steps"),
        (["preferences.reward=brightness"], "is not like 'package.module:Name [PLACE]'"),
        (["preferences.reward=handmade_rewards:Dark"], "has no attribute 'Dark'"),
        (["preferences.reward=handmade_rewards:Silent"], "has no score(videos)"),
        (["preferences.reward=handmade_rewards:Silent runs/x"], "too many positional arguments"),
        (["preferences.reward=handmade_rewards:Clumsy"], "one number a film"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_two(root, tmp_path, capfd, args, message):
    changes = [part for change in args for part in ("--set", change)]
    assert train(root, tmp_path / "bad", *changes) == 2
    error = capfd.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("skyreels-jax: ") and message in error
    assert not (tmp_path / "bad" / "stages.json").exists()


def test_a_reward_of_another_architecture_is_refused_before_any_film_is_made(root, tmp_path, capfd):
    (tmp_path / "config.json").write_text('{"architecture": "qwen_vl"}')
    name = f"skyreels_jax.models.reward.load:load_reward {tmp_path}"
    assert train(root, tmp_path / "bad", "--set", f"preferences.reward={name}") == 2
    error = capfd.readouterr().err.strip().splitlines()[-1]
    assert "no reward model of a known architecture, but 'qwen_vl'; legal: matching" in error
    assert not (tmp_path / "bad").exists()


def test_pairs_must_differ(root, tmp_path, capfd):
    reward = ["--set", "preferences.reward=handmade_rewards:Indifferent"]
    assert train(root, tmp_path / "alike", *reward) == 2
    assert "for each of 4 prompts all 2 films have the same score" in capfd.readouterr().err


def test_unknown_names_in_the_config_file_are_refused(root, tmp_path, capfd):
    for old, new, message in (
        ('"velocity": {', '"velocity": {"name": "flow_match", ', "did you mean 'flow_matching'?"),
        ('"beta"', '"betta"', "did you mean 'beta'?"),
        ('"beta": 2.0', '"name": "choosen"', "did you mean 'chosen'?"),
        ('"beta": 2.0', '"name": "chosen"', "name the run whose films"),
        ('"plateau": {"window"', '"plateau": {"windw"', "did you mean 'window'?"),
        ('"films_per_prompt"', '"films_a_prompt"', "did you mean 'films_per_prompt'?"),
    ):
        path = tmp_path / "bad.py"
        path.write_text((root / "flow_dpo.py").read_text().replace(old, new))
        assert main(["train", "--config", str(path)]) == 2
        assert message in capfd.readouterr().err


def chosen_config(root):
    """A run like `whole`, on its chosen films alone."""
    text = (root / "flow_dpo.py").read_text().replace('"beta": 2.0', '"name": "chosen"')
    text = text.replace('"stages": 2,', f'"stages": 2, "films": "{root / "whole"}",')
    path = root / "chosen.py"
    path.write_text(text)
    return path


def test_plain_training_on_the_chosen_films_of_another_run_takes_as_many_steps(root, whole, capfd):
    out, config = root / "chosen", str(chosen_config(root))
    handmade_rewards.CALLS.clear()
    longer = ["--set", "stages=[{'steps': 9, 'batch': 2}]"]
    assert main(["train", "--config", config, "--out", str(out), *longer]) == 0
    # No film but the measured ones was made, and no folder of films.
    assert handmade_rewards.CALLS == [BLANK, 3, 3, 3] and not list(out.rglob("films"))
    for row, other in zip(rows(out), rows(whole), strict=True):
        same = ("stage", "steps", "pairs", "dropped") if row["stage"] else ("reward", "quality")
        assert [row[name] for name in same] == pytest.approx([other[name] for name in same])
        assert ("mse" in row) == bool(row["stage"]) and "implicit_accuracy" not in row
    assert not np.array_equal(
        weights(out, 1)["transformer"]["head"]["kernel"],
        weights(whole, 1)["transformer"]["head"]["kernel"],
    )
    # The export is the last stage's, and a run in stages stays what it began as.
    shutil.rmtree(out / "export")
    assert main(["train", "--config", config, "--out", str(out), *longer, "--export_only"]) == 0
    assert (out / "export" / "model_index.json").is_file()
    assert train(root, out) == 2
    assert "objective.name: chosen -> flow_dpo" in capfd.readouterr().err


def test_films_of_a_run_that_does_not_fit_are_refused(root, whole, tmp_path, capfd):
    config = str(chosen_config(root))

    def refused(message, *changes):
        args = [part for change in changes for part in ("--set", change)]
        assert main(["train", "--config", config, "--out", str(tmp_path / "bad"), *args]) == 2
        error = capfd.readouterr().err.strip().splitlines()[-1]
        assert error.startswith("skyreels-jax: preferences.films: ") and message in error
        assert not (tmp_path / "bad" / "stages.json").exists()

    refused("is another kind of run: seed: 3 -> 4", "seed=4")
    refused("preferences.prompts: 2 -> 3", "preferences.prompts=3")
    refused("data.num_frames: 5 -> 9", "data.num_frames=9")
    refused("stages.0.batch: 2 -> 1", "stages=[{'steps': 4, 'batch': 1}]")
    refused("has finished 2 of 3 stages", "preferences.stages=3")
    gone = tmp_path / "gone"
    shutil.copytree(whole, gone, ignore=shutil.ignore_patterns("films"))
    refused("holds no films any more", f"preferences.films={gone}")


def test_a_start_model_with_an_fps_embedding_is_refused(root, tmp_path, capfd):
    configs = micro_configs()
    configs["transformer"] = dataclasses.replace(configs["transformer"], inject_sample_info=True)
    model = {name: configs[name] for name in ("transformer", "text_encoder")}
    params = {name: random_params(name, config) for name, config in model.items()}
    saved = {"kind": "text_to_video", "model": to_dict(model), "objective": {}, "flow_shift": 3.0}
    saved |= {"data": {"vae": str(root / "vae"), "num_frames": 5, "middle": 0.0}, "stages": []}
    with Checkpoints(tmp_path / "run" / "checkpoints") as checkpoints:
        checkpoints.save(1, {"params": params, "ema": None}, data={}, config=saved)
    assert train(root, tmp_path / "out", "--set", f"start={tmp_path / 'run'}") == 2
    assert "has an fps embedding; start from one that was" in capfd.readouterr().err
