"""Training of adapters, end to end: what is trained and kept, opened, started from, exported."""

import dataclasses
import json
import pathlib
import re
import shutil

import imageio.v3 as iio
import jax
import numpy as np
import pytest
from flax import nnx
from jax.sharding import PartitionSpec
from safetensors.numpy import load_file

import skyreels_jax
from skyreels_jax.cli.main import main
from skyreels_jax.cli.recipes.lora import fixed_weights
from skyreels_jax.cli.recipes.model import abstract_model
from skyreels_jax.cli.recipes.run import placed
from skyreels_jax.cli.recipes.start import started
from skyreels_jax.cli.train import read_config, resolved
from skyreels_jax.core.tree import named_leaves
from skyreels_jax.models.dit.fps import fold_fps
from skyreels_jax.pipelines import fingerprint, load
from skyreels_jax.pipelines.convert import ADAPTER, FILE
from skyreels_jax.pipelines.encoders import open_encoders
from skyreels_jax.testing.micro import micro_configs, write_micro_model
from skyreels_jax.testing.raw_state import raw_state
from skyreels_jax.weights.reader import stored_origin

VAE = pathlib.Path(__file__).parents[2] / "configs" / "toy" / "vae.py"
CONFIG = """
import ml_collections
from skyreels_jax.core.config import to_dict
from skyreels_jax.testing.micro import micro_configs

def get_config():
    model = {name: to_dict(micro_configs()[name]) for name in ("transformer", "text_encoder")}
    return ml_collections.ConfigDict({
        "kind": "text_to_video",
        "out": "%(root)s/run",
        "start": "%(base)s",
        "model": model,
        "objective": {"caption_dropout": 0.5},
        "data": {
            "folder": "%(root)s/data", "clips": 8, "num_frames": 5, "captions": 2,
            "vae": "%(base)s/vae", "latents": "%(root)s/latents",
        },
        "stages": ({"steps": 4, "batch": 2},),
        "optimizer": {"learning_rate": 2e-2, "warmup_steps": 1,
                      "policies": ({"paths": "text_encoder/.*", "frozen": True},
                                   {"paths": ".*ffn.*", "adam": True})},
        "lora": {"rank": 4, "alpha": 6.0},
        "ema_decay": 0.5,
        "accumulate": 2,
        "flow_shift": 3.0,
        "log_every": 1,
        "save_every": 2,
        "keep": 3,
        "sample_every": 4,
    })
"""
PARTS = ("transformer", "text_encoder")


@pytest.fixture(scope="module")
def root(tmp_path_factory, micro_folder):
    """The folder of a config and of its run."""
    root = tmp_path_factory.mktemp("lora")
    (root / "lora.py").write_text(CONFIG % {"root": root, "base": micro_folder})
    assert train(root, "--export_dtype", "float32") == 0
    return root


def train(root, *args):
    return main(["train", "--config", str(root / "lora.py"), *args])


def settings(**changes):
    return [part for name, value in changes.items() for part in ("--set", f"{name}={value}")]


def weights(place):
    modules = load.find(str(place)).read("float32")
    return {name: nnx.to_pure_dict(nnx.state(modules[name])) for name in PARTS}


def state(run, step):
    return raw_state(run / "checkpoints" / str(step))


def test_adapters_alone_are_trained_averaged_and_kept(root):
    held, width, depth = state(root / "run", 4), 24, 2
    # A down and an up for q, k, v, o of both attentions and for both layers of the mlp.
    expected = depth * 4 * (8 * (width + width) + 2 * (width + 48))
    for name in ("params", "ema"):
        leaves = dict(named_leaves(held[name]))
        assert len(leaves) == 20 and sum(leaf.size for leaf in leaves.values()) == expected
        assert all("/adapter/" in path and leaf.any() for path, leaf in leaves.items())
    # Muon has one average of a matrix, Adam two; nothing has the size of what is fixed.
    assert sum(np.size(leaf) for leaf in jax.tree.leaves(held["opt_state"])) < 2 * expected


def test_the_run_opens_as_a_model_whose_named_layers_changed(root, micro_folder):
    before, after = (dict(named_leaves(weights(p))) for p in (micro_folder, root / "run"))
    changed = {name for name in before if not np.array_equal(before[name], after[name])}
    layers = {f"attn{n}/{x}" for n in (1, 2) for x in "qkvo"} | {"ffn/up", "ffn/down"}
    assert changed == {f"transformer/blocks/{layer}/kernel" for layer in layers}
    source, base = load.find(str(root / "run")), load.find(str(micro_folder))
    assert source.fingerprint != base.fingerprint and source.defaults.num_frames == 5


def test_the_export_is_the_merged_model_and_the_adapter_alone(root, micro_folder):
    export = root / "run" / "export"
    jax.tree.map(np.testing.assert_array_equal, weights(export), weights(root / "run"))
    lora = str(export / FILE)
    assert sum(array.size for array in load_file(lora).values()) == 4224
    base = skyreels_jax.load(str(micro_folder), lora=lora)
    merged = base._adapted(base.source.loras(lora))["transformer"]
    for (path, a), (_, b) in zip(
        named_leaves(merged), named_leaves(weights(export)["transformer"]), strict=True
    ):
        np.testing.assert_allclose(a, b, atol=1e-6, err_msg=path)


def test_adapters_are_converted_merged_or_alone(root, tmp_path, capfd):
    run, export = root / "run", root / "run" / "export"

    def convert(name, *options):
        return main(["convert", str(run), str(tmp_path / name), "--to", "diffusers", *options])

    assert convert("merged", "--dtype", "float32") == convert("alone", "--lora", "alone") == 0
    jax.tree.map(np.testing.assert_array_equal, weights(tmp_path / "merged"), weights(export))
    exported, names = load_file(export / FILE), ("merged/lora", "alone")
    for name in names:
        alone = load_file(tmp_path / name / ADAPTER)
        assert alone.keys() == exported.keys()
        jax.tree.map(np.testing.assert_array_equal, alone, exported)
    assert [file.name for file in (tmp_path / "alone").iterdir()] == [ADAPTER]
    assert convert("raw", "--lora", "alone", "--weights", "raw") == 0
    raw = load_file(tmp_path / "raw" / ADAPTER)
    assert any(not np.array_equal(raw[key], exported[key]) for key in raw)
    checkpoint = str(run / "checkpoints" / "2")
    assert main(["convert", checkpoint, str(tmp_path / "two"), "--to", "orbax"]) == 0
    held = weights(tmp_path / "two")["transformer"]["blocks"]["ffn"]["up"]["kernel"]
    assert not np.array_equal(held, weights(run)["transformer"]["blocks"]["ffn"]["up"]["kernel"])
    capfd.readouterr()
    target = str(tmp_path / "no")
    assert main(["convert", str(run), target, "--to", "orbax", "--lora", "alone"]) == 2
    assert "--lora alone is written --to diffusers, not orbax" in capfd.readouterr().err


def test_merged_models_have_fingerprints_of_their_own(root, micro_folder, tmp_path, monkeypatch):
    """Both ends of large files are those of the base: a header, and a layer without adapters."""
    for step in ("2", "4"):
        checkpoint = str(root / "run" / "checkpoints" / step)
        target = str(tmp_path / step)
        assert main(["convert", checkpoint, target, "--to", "diffusers", "--dtype", "float32"]) == 0
    hop = ["convert", str(tmp_path / "4"), str(tmp_path / "again"), "--to", "official"]
    assert main(hop) == 0
    origins = [stored_origin(path) for path in sorted((tmp_path / "again").glob("*.safetensors"))]
    assert origins == [stored_origin(tmp_path / "4" / "transformer")] != [None]
    shutil.rmtree(tmp_path / "again")
    shutil.copytree(micro_folder, tmp_path / "base")
    monkeypatch.setattr(fingerprint, "SAMPLE_BYTES", 128)
    found = {load.find(str(place)).fingerprint for place in tmp_path.iterdir()}
    assert len(found) == 3
    export = root / "run" / "export"
    assert load.find(str(export)).fingerprint == load.find(str(tmp_path / "4")).fingerprint
    encoders = [open_encoders(str(place)).fingerprint for place in (export, tmp_path / "2")]
    assert encoders[0] == encoders[1]


def sheet(run):
    """The films that a run made of itself on the way."""
    (path,) = (run / "samples").iterdir()
    assert path.name == "00000004.png"
    return iio.imread(path)


def test_the_same_steps_and_films_whether_stopped_or_not(root, tmp_path):
    again = tmp_path / "again"
    shutil.copytree(root / "run", again, ignore=shutil.ignore_patterns("export", "samples", "4"))
    assert train(root, "--out", str(again)) == 0
    jax.tree.map(np.testing.assert_array_equal, state(again, 4), state(root / "run", 4))
    assert sheet(again).std() > 1
    np.testing.assert_array_equal(sheet(again), sheet(root / "run"))


def test_the_same_adapters_on_a_mesh(root, tmp_path):
    """Adapters are divided as the weights below them, which no device holds whole."""
    one = settings(stages="[{'steps': 3, 'batch': 4}]")
    mesh = settings(mesh="{'fsdp': 2, 'tensor': 2, 'context': 2, 'attention': 'ring'}")
    assert train(root, "--out", str(tmp_path / "one"), *one) == 0
    assert train(root, "--out", str(tmp_path / "mesh"), *one, *mesh) == 0
    found = (state(tmp_path / name, 3)["params"] for name in ("one", "mesh"))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), *found)

    recipe, config = resolved(read_config(str(root / "lora.py")), [one[1], mesh[1]])
    _, params, rest = abstract_model(recipe, config, placed(recipe, config))
    held = fixed_weights(config, rest)
    own = {name: leaf.sharding.spec for name, leaf in named_leaves(params)}
    layer = "transformer/blocks/attn1/%s/adapter/%s/kernel"
    assert own[layer % ("q", "down")] == PartitionSpec(None, "fsdp", None)
    assert own[layer % ("q", "up")] == PartitionSpec(None, None, "tensor")
    assert own[layer % ("o", "down")] == PartitionSpec(None, "tensor", None)
    assert own[layer % ("o", "up")] == PartitionSpec(None, None, "fsdp")
    for name, leaf in named_leaves(held):
        if re.search("attn[12]/[qkvo]/kernel", name):
            assert leaf.addressable_shards[0].data.size * 4 == leaf.size


def test_a_run_of_adapters_is_what_others_start_from(root, tmp_path):
    expected = weights(root / "run")
    jax.tree.map(np.testing.assert_array_equal, started(str(root / "run"), expected), expected)
    # Further adapters, before their first step.
    out, changes = tmp_path / "further", {"lora.rank": 2, "start": root / "run"}
    changes["stages"] = "[{'steps': 0, 'batch': 2}]"
    assert train(root, "--out", str(out), *settings(**changes)) == 0
    jax.tree.map(np.testing.assert_array_equal, weights(out), expected)


def test_a_model_without_the_fps_embedding_of_what_its_adapters_are_upon(root, tmp_path):
    told = dataclasses.replace(micro_configs()["transformer"], inject_sample_info=True)
    base = write_micro_model(tmp_path / "base", transformer=told)
    out, changes = tmp_path / "out", {"start": base, "data.fps": 12}
    changes["stages"] = "[{'steps': 0, 'batch': 2}]"
    assert train(root, "--out", str(out), *settings(**changes)) == 0
    folded = fold_fps(weights(base)["transformer"], 12)
    jax.tree.map(np.testing.assert_array_equal, weights(out)["transformer"], folded)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"start": ""}, "lora: adapters are trained upon a model: name it (start), such as 'tiny'"),
        ({"start": "/nowhere"}, "start: /nowhere holds no checkpoints"),
        ({"lora.rank": 0}, "lora.rank is 1 or more, got 0"),
        ({"lora.rank": 25}, "lora.rank: 25 is more than the smallest of the layers has; legal: 1"),
        ({"lora.alpha": -1.0}, "lora.alpha must be more than 0 and finite, got -1"),
        ({"lora.targets": "()"}, "lora.targets: name layers"),
        ({"lora.targets": "('(',)"}, "lora.targets: '(' is no regular expression"),
        ({"lora.targets": "('text_encoder/.*',)"}, "legal are regular expressions of transformer/"),
        ({"lora.targets": "('transformer/patch_embedding/kernel',)"}, "matches no linear layer"),
        ({"lora.rnk": 1}, "did you mean 'rank'?"),
        ({"lora": "{'rank': 0, 'alpha': 1}"}, "lora.rank is 1 or more"),
        ({"optimizer.policies": "[{'paths': '.*/adapter/dwn/.*'}]"}, "matches no parameter path"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_two(root, tmp_path, capfd, changes, message):
    assert train(root, "--out", str(tmp_path / "bad"), *settings(**changes)) == 2
    error = capfd.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("skyreels-jax: ") and message in error
    assert not (tmp_path / "bad").exists()


def test_other_kinds_train_whole_models(tmp_path, capfd):
    args = ["--config", str(VAE), "--out", str(tmp_path / "bad")]
    assert main(["train", *args, "--set", "lora={'rank': 2, 'alpha': 1.0}"]) == 2
    message = "lora: vae trains whole models; legal for text_to_video and flow_dpo"
    assert message in capfd.readouterr().err
    assert not (tmp_path / "bad").exists()


def test_what_adapters_are_stays_in_a_run(root, micro_folder, tmp_path, capfd):
    other = shutil.copytree(micro_folder, tmp_path / "other")
    for changes, message in (
        ({"lora.alpha": 7.0}, "lora.alpha: 6.0 -> 7.0: not in a run that is at step 4"),
        ({"start": other}, f"start: {micro_folder} -> {other}: not in a run that is at step 4"),
        ({"lora.base": "0123"}, ", not 0123"),
    ):
        assert train(root, *settings(**changes)) == 2
        assert message in capfd.readouterr().err


def test_adapters_upon_what_is_no_longer_there_are_nothing(root, micro_folder, tmp_path, capfd):
    base = shutil.copytree(micro_folder, tmp_path / "base")
    new = ["--out", str(tmp_path / "new"), *settings(start=base)]
    assert train(root, *new, "--set", "stages=[{'steps': 0, 'batch': 2}]") == 0
    config = json.loads((base / "transformer" / "config.json").read_text())
    (base / "transformer" / "config.json").write_text(json.dumps(config | {"eps": 1e-5}))
    for said, message in ((new, "lora.base: "), ([*new, "--export_only"], "trained upon another")):
        assert train(root, *said) == 2
        assert message in capfd.readouterr().err
