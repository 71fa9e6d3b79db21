"""Training a transformer on people's own videos: encoded, trained, stopped, resumed, exported."""

import csv
import dataclasses
import json
import os
import re
import signal

import jax
import numpy as np
import pytest
from flax import nnx
from own_videos import encode

import skyreels_jax
from skyreels_jax.cli.main import main
from skyreels_jax.cli.recipes import features
from skyreels_jax.cli.recipes.base import recipe_for
from skyreels_jax.cli.recipes.samples import film_sampler
from skyreels_jax.cli.train import read_config
from skyreels_jax.core.config import from_dict, override, to_dict
from skyreels_jax.core.errors import UserError
from skyreels_jax.core.types import ALL_ROWS, Rows
from skyreels_jax.data.features.sets import read_features
from skyreels_jax.evals.sheet import contact_sheet
from skyreels_jax.objectives.diffusion_forcing import DiffusionForcing
from skyreels_jax.parallel.mesh import MeshConfig
from skyreels_jax.pipelines.convert import FILE
from skyreels_jax.pipelines.load import find
from skyreels_jax.testing.micro import micro_configs, write_micro_model
from skyreels_jax.testing.raw_state import raw_state
from skyreels_jax.training import loop
from skyreels_jax.training.config import StageConfig, TrainConfig
from skyreels_jax.weights.reader import open_source

CONFIG = """
import ml_collections

def get_config():
    return ml_collections.ConfigDict({
        "kind": "text_to_video",
        "out": "%(root)s/run",
        "start": "%(micro)s",
        "model": {"transformer": %(transformer)r},
        "objective": {"caption_dropout": 0.5},
        "data": {"features": "%(features)s", "images": 0.3},
        "stages": ({"steps": 8, "batch": 2, "frames": 65, "resolution": "32x48"},),
        "optimizer": {"name": "adam", "adam_learning_rate": 1e-2, "warmup_steps": 1},
        "ema_decay": 0.9,
        "accumulate": 2,
        "flow_shift": 5.0,
        "log_every": 1,
        "save_every": 100,
    })
"""


@pytest.fixture(scope="module")
def config(own_features, micro_folder, tmp_path_factory):
    """The config file."""
    root = tmp_path_factory.mktemp("own")
    transformer = to_dict(micro_configs()["transformer"])
    said = {"root": root, "micro": micro_folder, "features": own_features}
    path = root / "config.py"
    path.write_text(CONFIG % {**said, "transformer": transformer})
    return path


@pytest.fixture(scope="module")
def run(config):
    """The folder of the finished run."""
    assert main(["train", "--config", str(config)]) == 0
    return config.parent / "run"


def leaves(module):
    return nnx.to_pure_dict(nnx.state(module, nnx.Param))


def settings(config, **changes):
    """Returns the recipe and the resolved config, changed."""
    values = from_dict(TrainConfig, read_config(str(config)))
    recipe = recipe_for(values.kind)
    return recipe, dataclasses.replace(recipe.resolve(values), **changes)


def batches(config, count, rows=ALL_ROWS, **changes):
    recipe, values = settings(config, **changes)
    stage = dataclasses.replace(values.stages[0], steps=count)
    values = dataclasses.replace(values, stages=(stage,))
    return list(recipe.loader(values)(stage, 0, rows))


def rows(folder):
    with (folder / "metrics.csv").open(newline="") as file:
        timed = ("clips_per_second", "ms_per_step", "data_wait", "save_ms", "host_gb")
        return [
            {name: value for name, value in row.items() if name not in timed}
            for row in csv.DictReader(file)
        ]


def test_a_run_changes_the_transformer_alone_and_is_exported_whole(run, micro_folder):
    assert [row["step"] for row in rows(run)] == [str(step + 1) for step in range(8)]
    assert all(np.isfinite(float(row["loss"])) for row in rows(run))
    assert list(raw_state(run)["params"]) == ["transformer"]  # nothing frozen is in it
    before, after = find(str(micro_folder)), find(str(run / "export"))
    old, new = before.read("float32"), after.read("float32")
    assert old.keys() == new.keys() == {"vae", "text_encoder", "transformer"}
    for name in old:
        same = jax.tree.map(np.array_equal, leaves(old[name]), leaves(new[name]))
        assert all(jax.tree.leaves(same)) == (name != "transformer")
    assert (after.defaults.num_frames, after.defaults.height, after.defaults.width) == (65, 32, 48)
    assert (after.defaults.fps, after.defaults.shift) == (24.0, 5.0)
    # Straight from the checkpoints it is the same model.
    straight = find(str(run))
    assert straight.defaults == after.defaults
    assert straight.tokenizer.get_vocab() == after.tokenizer.get_vocab()
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-3, atol=1e-4),
        leaves(straight.read("float32", ("transformer",))["transformer"]),
        leaves(new["transformer"]),
    )
    film = skyreels_jax.load(str(run / "export")).generate("a red ring", num_frames=9)
    assert film.frames.shape == (9, 32, 48, 3)


def test_its_films_on_the_way_are_those_of_the_model_that_it_is(config, run, tmp_path):
    stages = (StageConfig(steps=8, batch=2, frames=9, resolution="32x48"),)
    prompts = ("a red ring", "a blue square")
    options = {"sample_every": 4, "sample_prompts": prompts, "out": str(tmp_path), "stages": stages}
    sheet = film_sampler(settings(config, **options)[1])(raw_state(run)["ema"])
    films = skyreels_jax.load(str(run)).generate(list(prompts), seed=[0, 1], num_frames=9)
    np.testing.assert_array_equal(sheet, contact_sheet([film.frames for film in films], prompts))
    assert sheet.std() > 5  # no empty paper


def test_conversion_casts_what_was_trained_and_keeps_the_rest(run, micro_folder, tmp_path):
    options = ["--to", "diffusers", "--dtype", "float16"]
    assert main(["convert", str(run), str(tmp_path / "out"), *options]) == 0
    for name in ("vae", "text_encoder", "transformer"):
        found, there = (open_source(folder / name) for folder in (tmp_path / "out", micro_folder))
        assert set(found.keys()) == set(there.keys())
        for key in there.keys():  # noqa: SIM118
            if name == "transformer":
                assert found.dtype(key) == np.float16
            else:
                np.testing.assert_array_equal(found.read(key), there.read(key), strict=True)
    words = [
        (f / "tokenizer" / "tokenizer.json").read_bytes()
        for f in (tmp_path / "out", run / "export")
    ]
    assert words[0] == words[1] == (micro_folder / "tokenizer" / "tokenizer.json").read_bytes()


def test_a_stopped_run_goes_on_to_the_bit(config, run, tmp_path, monkeypatch):
    following = loop._Batches.next

    def stopped(self, step):
        if step == 4:
            os.kill(os.getpid(), signal.SIGTERM)
        return following(self, step)

    monkeypatch.setattr(loop._Batches, "next", stopped)
    args = ["train", "--config", str(config), "--out", str(tmp_path / "run")]
    assert main(args) == 0
    monkeypatch.undo()
    assert main(args) == 0
    assert rows(tmp_path / "run") == rows(run)
    jax.tree.map(np.testing.assert_array_equal, raw_state(tmp_path / "run"), raw_state(run))


def test_batches_are_of_one_bucket_and_about_as_large(config):
    found = batches(config, 40)
    shapes = {batch["latents"].shape[1:4]: len(batch["latents"]) for batch in found}
    # Clips of 102, 54 and 6 tokens, in pairs of micro-batches.
    assert shapes == {(17, 4, 6): 2, (9, 4, 6): 2, (1, 4, 6): 34}
    images = [batch["latents"].shape[1] == 1 for batch in found]
    assert 4 <= sum(images) <= 20 and images != sorted(images)
    for batch in found:
        cond, null = batch["cond"], batch["null_cond"]
        assert set(cond) == set(null) == {"context", "context_weight"}
        assert cond["context"].shape[1:] == (64, 32) and cond["context"].dtype.name == "bfloat16"
        np.testing.assert_array_equal(cond["context_weight"].sum(-1), 512)
        assert null["context"].shape == (1, 64, 32)  # once, not for every clip
        np.testing.assert_array_equal(null["context_weight"][:, :3], [[1, 511, 0]])
    again = batches(config, 40)
    jax.tree.map(np.testing.assert_array_equal, found, again)


def test_processes_share_every_batch(config):
    whole = batches(config, 12)
    halves = [batches(config, 12, rows=Rows((index,), 2)) for index in range(2)]
    nulls = [[batch.pop("null_cond") for batch in found] for found in (whole, *halves)]
    jax.tree.map(np.testing.assert_array_equal, nulls[0], nulls[1])
    jax.tree.map(np.testing.assert_array_equal, nulls[0], nulls[2])
    jax.tree.map(lambda a, *b: np.testing.assert_array_equal(a, np.concatenate(b)), whole, *halves)


def on_mesh(config, saved=None, **mesh):
    """Returns the recipe and the config of a run of large batches, as it begins or goes on."""
    stages = (StageConfig(steps=8, batch=16, frames=65, resolution="32x48"),)
    recipe, values = settings(config, mesh=MeshConfig(**mesh), stages=stages)
    values = override(values, "data.images", "0.0")
    return recipe, features.with_multiple(values, saved)


def opened(config, saved=None, **mesh):
    recipe, values = on_mesh(config, saved, **mesh)
    return iter(recipe.loader(values)(values.stages[0], 0, ALL_ROWS))


def test_a_run_goes_on_in_its_own_order_alone(config, monkeypatch):
    first = opened(config, fsdp=8)
    next(first)
    state = json.loads(json.dumps(first.get_state()))
    again = opened(config, data=4, fsdp=-1)
    again.set_state(state)
    jax.tree.map(np.testing.assert_array_equal, next(first), next(again))
    sizes = r"33x32x48: batches of 16 of \d+ clips \(\w+\) -> batches of 24 of"
    with pytest.raises(UserError, match=f"{sizes}.*and data.multiple = 16; or .* another --out"):
        opened(config, fsdp=4, context=2).set_state(state)

    def grown(folders):
        sets = read_features(folders)
        bucket, table = list(sets.tables.items())[1]
        tables = {bucket: dataclasses.replace(table, ids=(*table.ids[1:], "new"))}
        return dataclasses.replace(sets, tables=sets.tables | tables)

    monkeypatch.setattr(features, "read_features", grown)
    with pytest.raises(
        UserError, match=r"33x32x48: .* -> .*goes on with the features as they were"
    ):
        opened(config, fsdp=8).set_state(state)
    # Of a run from before orders were saved.
    opened(config, fsdp=8).set_state(state["position"])


def test_on_other_meshes_batches_stay_as_large(config):
    """8 devices, then 4, then 8 again; and one of 4 that 8 cannot share."""
    saved = to_dict(on_mesh(config, fsdp=8)[1])
    assert saved["data"]["multiple"] == 16  # micro-batches of a clip a device, two at a step
    state, seen = None, []
    for mesh in ({"fsdp": 8}, {"fsdp": 4, "context": 2}, {"fsdp": 8}):
        part = opened(config, saved, **mesh)
        if state is not None:
            part.set_state(state)
        seen += [next(part) for _ in range(2)]
        state = json.loads(json.dumps(part.get_state()))
    whole = opened(config, fsdp=8)
    assert {batch["latents"].shape[:2] for batch in seen} == {(16, 17), (16, 9)}
    jax.tree.map(np.testing.assert_array_equal, seen, [next(whole) for _ in seen])
    saved = to_dict(on_mesh(config, fsdp=4, context=2)[1])
    message = (
        "mesh: data x fsdp = 8 devices cannot share batches of 24 clips of 33x32x48 in 2 micro-"
        "batches (multiples of data.multiple = 8, which a run keeps); legal: divisors of 4"
    )
    with pytest.raises(UserError, match=re.escape(message)):
        opened(config, saved, fsdp=8)
    # Of a run from before the field.
    del saved["data"]["multiple"]
    assert on_mesh(config, saved, fsdp=8)[1].data.multiple == 16


@pytest.mark.slow  # compiles two buckets for each of two meshes
def test_on_other_meshes_the_curve_goes_on(config, tmp_path, monkeypatch):
    following, last = loop._Batches.next, [0]

    def stopped(self, step):
        if step + 1 == last[0]:
            os.kill(os.getpid(), signal.SIGTERM)
        return following(self, step)

    def train(folder, *changes):
        changes += ("accumulate=1", "data.images=0.0", "start=")
        args = ["train", "--config", str(config), "--no_export", "--out", str(tmp_path / folder)]
        assert main([*args, *(f"--set={change}" for change in changes)]) == 0

    monkeypatch.setattr(loop._Batches, "next", stopped)
    stages = "stages=({'steps': 6, 'batch': 8, 'frames': 65, 'resolution': '32x48'},)"
    train("whole", stages, "mesh.fsdp=8")
    for last[0], mesh in ((2, ["fsdp=8"]), (4, ["fsdp=4", "context=2"]), (0, ["fsdp=8"])):
        train("parts", stages, *(f"mesh.{axis}" for axis in mesh))
    curves = [[float(row["loss"]) for row in rows(tmp_path / name)] for name in ("whole", "parts")]
    assert len(curves[0]) == 6
    np.testing.assert_allclose(*curves, atol=1e-5)


def test_rates_are_told_and_chosen(config):
    recipe, values = settings(config)
    transformer = dataclasses.replace(values.model.transformer, inject_sample_info=True)
    model = dataclasses.replace(values.model, transformer=transformer)
    found = batches(config, 30, model=model)
    told = {int(fps) for batch in found for fps in batch["cond"]["fps"]}
    assert told == {16, 24}
    for batch in found:
        np.testing.assert_array_equal(batch["null_cond"]["fps"], batch["cond"]["fps"])
    data = dataclasses.replace(values.data, fps=24)
    only = batches(config, 30, model=model, data=data)
    assert {int(fps) for batch in only for fps in batch["cond"]["fps"]} == {24}


def test_adapters_are_trained_on_own_videos(config, micro_folder, tmp_path, monkeypatch):
    lora = "{'rank': 2, 'alpha': 2.0, 'targets': ('transformer/blocks/attn1/q/kernel',)}"
    args = ["train", "--config", str(config), "--out", str(tmp_path / "run")]
    stages = "({'steps': 1, 'batch': 2, 'frames': 33, 'resolution': '32x48'},)"
    more = {"lora": lora, "stages": stages, "data.images": "0.0", "ema_decay": "0.0"}
    args += [f"--set={name}={value}" for name, value in more.items()]
    assert main(args) == 0
    assert (tmp_path / "run" / "export" / FILE).is_file()
    old, new = (find(str(f)).read("float32") for f in (micro_folder, tmp_path / "run" / "export"))
    old, new = (leaves(m["transformer"])["blocks"]["attn1"] for m in (old, new))
    assert not np.array_equal(old["q"]["kernel"], new["q"]["kernel"])
    np.testing.assert_allclose(old["k"]["kernel"], new["k"]["kernel"], rtol=1e-3, atol=1e-4)
    # What made the features is gone: the merged transformer and the adapter are still exported.
    whole = (tmp_path / "run" / "export" / FILE).read_bytes()

    def gone(config):
        raise UserError("gone")

    monkeypatch.setattr(features, "run_encoders", gone)
    assert main([*args, "--export_only"]) == 0
    found = {path.name for path in (tmp_path / "run" / "export").iterdir()}
    assert found == {"transformer", "lora"}
    assert (tmp_path / "run" / "export" / FILE).read_bytes() == whole


def test_a_transformer_by_itself_where_the_model_is_elsewhere(config, own_videos, tmp_path, capfd):
    model = write_micro_model(tmp_path / "model")
    features = tmp_path / "features"
    assert encode(own_videos, model, features) == 0
    moved = model.rename(tmp_path / "moved")
    args = ["train", "--config", str(config), f"--set=data.features={features}"]
    args += [f"--set=start={moved}", "--out", str(tmp_path / "run")]
    args += ["--set=stages=({'steps': 1, 'batch': 2, 'frames': 33, 'resolution': '32x48'},)"]
    assert main([*args, "--set=data.images=0.0"]) == 0
    assert f"the transformer alone is exported: {model}: no such" in capfd.readouterr().out
    assert [path.name for path in (tmp_path / "run" / "export").iterdir()] == ["transformer"]
    # Where another model has taken its place, the features are stale.
    vae = dataclasses.replace(micro_configs()["vae"], latents_mean=(0.0,) * 4)
    write_micro_model(model, vae=vae)
    assert main([*args, "--set=data.images=0.0", "--out", str(tmp_path / "other")]) == 2
    assert "were made by another VAE or text encoder" in capfd.readouterr().err
    assert not (tmp_path / "other").exists()


STAGE = "{'steps': 1, 'batch': 2, 'frames': 65, 'resolution': '32x48'}"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("data.features=/nowhere", "'/nowhere' holds no features; `skyreels-jax data encode`"),
        ("data.features=", "stages have a resolution on data.features only"),
        ("model.text_encoder={}", "leave out model.text_encoder"),
        ("data.vae=x", "text_to_video with data.features reads data.features, images, fps"),
        ("sample_every=5", "no sentences to make films of: name them (sample_prompts)"),
        ("sample_prompts=('a ring',)", "of films that are made every sample_every steps"),
        (
            "mesh={'context': 8, 'attention': 'ring'}",
            "8 devices cannot share the 6 tokens of a frame of",
        ),
        ("optimizer.muon_beta=0.9", "adam does not read muon_beta; its rate is adam_learning_rate"),
        ("data.images=2.0", "data.images is a share of the steps"),
        ("data.multiple=3", "= 3 must divide each stage's batch (2) and be a multiple of accumul"),
        ("data.fps=30", "no clip has 30 frames a second"),
        ("data.balance={'attribute': 'shape'}", "'shape' does not exist; legal: subject_type"),
        ("model.transformer.text_dim=64", "holds another model: transformer/text_embedder"),
        ("stages=({'steps': 1, 'batch': 2},)", "have a resolution and the frames of the longest"),
        (f"stages=({STAGE.replace('32x48', '541p')},)", "no resolution '541p'"),
        (f"stages=({STAGE.replace('32x48', '64x64')},)", "no features are of 64x64 and up to 65"),
        (f"stages=({STAGE.replace('65', '61')},)", "frames at most, not 61"),
    ],
)
def test_bad_input_is_one_line(config, tmp_path, capfd, change, message):
    args = ["train", "--config", str(config), "--out", str(tmp_path / "bad"), "--set", change]
    assert main(args) == 2
    error = capfd.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("skyreels-jax: ") and message in error
    assert not (tmp_path / "bad").exists()


def test_diffusion_forcing_takes_no_images(config):
    with pytest.raises(UserError, match="an image is a single latent frame"):
        batches(config, 1, objective=DiffusionForcing())


def test_a_model_that_cannot_read_the_features_is_refused(config, tmp_path, capfd):
    args = ["train", "--config", str(config), "--out", str(tmp_path / "bad"), "--set", "start="]
    assert main([*args, "--set", "model.transformer.text_dim=64"]) == 2
    assert "text_dim is 64; the features in" in capfd.readouterr().err
