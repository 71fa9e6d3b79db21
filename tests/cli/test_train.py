"""`skyreels-jax train`, end to end: a minuscule VAE, then a transformer on its latents, and bad
input.
"""

import csv
import json
import pathlib
import re
import shutil

import imageio.v3 as iio
import numpy as np
import pytest
from safetensors.numpy import load_file

from skyreels_jax.cli.main import main
from skyreels_jax.cli.recipes.base import recipe_for
from skyreels_jax.cli.recipes.text_to_video import TextToVideoRecipe
from skyreels_jax.cli.train import read_config, resolved
from skyreels_jax.core.config import from_dict
from skyreels_jax.core.errors import UserError
from skyreels_jax.core.types import ALL_ROWS
from skyreels_jax.parallel.mesh import MeshConfig
from skyreels_jax.training.config import TrainConfig

VAE = """
import ml_collections

def get_config():
    return ml_collections.ConfigDict({
        "kind": "vae",
        "out": "%(root)s/vae",
        "model": {
            "base_dim": 4, "z_dim": 4, "dim_mult": (1, 1), "temperal_downsample": (True,),
            "num_res_blocks": 1, "latents_mean": (0.0,) * 4, "latents_std": (1.0,) * 4,
            "scale_factor_temporal": None, "scale_factor_spatial": None,
        },
        "objective": {"kl_weight": 1e-6},
        "data": {"folder": "%(root)s/data", "clips": 16, "num_frames": 5, "captions": 2},
        "stages": ({"steps": 3, "batch": 2, "frames": 5, "size": 16},),
        "optimizer": {"name": "adam", "adam_learning_rate": 1e-3, "warmup_steps": 1},
        "log_every": 2,
        "save_every": 2,
    })
"""
VIDEO = """
import ml_collections

def get_config():
    return ml_collections.ConfigDict({
        "kind": "text_to_video",
        "out": "%(root)s/video",
        "model": {
            "transformer": {
                "patch_size": (1, 8, 8), "num_attention_heads": 2, "attention_head_dim": 12,
                "in_channels": 4, "out_channels": 4, "text_dim": 16, "freq_dim": 16,
                "ffn_dim": 32, "num_layers": 2,
            },
            "text_encoder": {"d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2},
        },
        "objective": {"caption_dropout": 0.5},
        "data": {
            "folder": "%(root)s/data", "clips": 16, "num_frames": 5, "captions": 2,
            "vae": "%(root)s/vae/export/vae", "latents": "%(root)s/latents",
        },
        "stages": ({"steps": 3, "batch": 4},),
        "optimizer": {
            "name": "adam", "adam_learning_rate": 1e-2, "warmup_steps": 1,
            "policies": ({"paths": "text_encoder/embedding", "frozen": True},),
        },
        "ema_decay": 0.9,
        "accumulate": 2,
        "flow_shift": 3.0,
        "sample_every": 2,
        "log_every": 1,
        "save_every": 100,
    })
"""
FORCING = """
import ml_collections
from skyreels_jax.cli.train import read_config

def get_config():
    config = ml_collections.ConfigDict(read_config("%(root)s/video.py"))
    config.start, config.out, config.sample_every = config.out, "%(root)s/forcing", 0
    config.objective.name = "diffusion_forcing"
    config.data.update({"num_frames": 9, "middle": 0.5, "turns": 0.5, "latents": "%(root)s/long"})
    config.stages = ({"steps": 2, "batch": 4, "frames": 5},)
    return config
"""

UNBALANCED = """
import ml_collections
from skyreels_jax.cli.train import read_config

def get_config():
    config = ml_collections.ConfigDict(read_config("%(root)s/video.py"))
    config.out, config.sample_every = "%(root)s/unbalanced", 0
    config.model.transformer.inject_sample_info = True
    config.data.update({"rates": (12, 16), "latents": "%(root)s/rates"})
    shares = {"ring": 0.0, "square": 0.25, "triangle": 0.75}
    config.data.balance = {"attribute": "shape", "shares": shares}
    config.stages = ({"steps": 1, "batch": 4},)
    return config
"""
SFT = """
import ml_collections
from skyreels_jax.cli.train import read_config

def get_config():
    config = ml_collections.ConfigDict(read_config("%(root)s/unbalanced.py"))
    config.start, config.out = config.out, "%(root)s/sft"
    config.model.transformer.inject_sample_info = False
    config.data.fps = 12
    config.data.balance = {"attribute": "shape"}
    config.stages = ({"steps": 3, "batch": 4},)  # as in VIDEO: the same program
    return config
"""
CONFIGS = {
    "vae": VAE,
    "video": VIDEO,
    "forcing": FORCING,
    "unbalanced": UNBALANCED,
    "sft": SFT,
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The folder of the two configs, after both runs."""
    root = tmp_path_factory.mktemp("runs")
    for name, text in CONFIGS.items():
        (root / f"{name}.py").write_text(text % {"root": root})
    for name in ("vae", "video"):
        assert main(["train", "--config", str(root / f"{name}.py")]) == 0
    return root


def rows(path: pathlib.Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_vae_is_trained_and_exported(runs):
    logged = rows(runs / "vae" / "metrics.csv")
    assert [row["step"] for row in logged] == ["2", "3"]
    assert all(np.isfinite(float(row["loss"])) for row in logged)
    folder = runs / "vae" / "export" / "vae"
    config = json.loads((folder / "config.json").read_text())
    assert config["_class_name"] == "AutoencoderKLWan"
    assert len(config["latents_std"]) == 4 and min(config["latents_std"]) > 0
    assert config["latents_mean"] != [0.0] * 4
    assert (folder / "diffusion_pytorch_model.safetensors").is_file()


def test_the_pipeline_is_exported_whole(runs):
    from skyreels_jax.models.layout import load_component, read_folder
    from skyreels_jax.pipelines.defaults import read_defaults
    from skyreels_jax.pipelines.load import find

    folder = read_folder(runs / "video" / "export")
    assert folder.scheduler["flow_shift"] == 3.0
    # What it makes when nothing is asked for is what it was trained on.
    defaults = read_defaults(folder.path, folder.scheduler)
    assert (defaults.num_frames, defaults.height, defaults.fps) == (5, 64, 12)
    assert defaults == find(str(runs / "video")).defaults
    for component in folder.components.values():
        load_component(component)
    assert len(rows(runs / "video" / "metrics.csv")) == 3


def test_films_are_sampled_on_the_way(runs):
    (path,) = (runs / "video" / "samples").iterdir()
    image = iio.imread(path)
    assert path.name == "00000002.png" and image.shape[1:] == (1200, 3) and image.std() > 1
    assert any(path.stat().st_size > 10_000 for path in (runs / "video" / "tensorboard").iterdir())


def test_latents_are_normalised(runs):
    latents = np.load(runs / "latents" / "latents.npy")
    assert latents.shape == (16, 3, 32, 32, 4) and latents.dtype == np.float16
    flat = latents.astype(np.float32).reshape(-1, 4)
    np.testing.assert_allclose(flat.mean(0), 0, atol=0.02)
    np.testing.assert_allclose(flat.std(0), 1, atol=0.02)


def test_a_finished_run_trains_no_further_and_exports_again(runs, capfd):
    target = runs / "video" / "export"
    shutil.rmtree(target)
    assert main(["train", "--config", str(runs / "video.py")]) == 0
    assert len(rows(runs / "video" / "metrics.csv")) == 3
    assert capfd.readouterr().out.strip().splitlines()[-1] == str(target)
    args = ["--export_only", "--export_dtype", "float32"]
    assert main(["train", "--config", str(runs / "video.py"), *args]) == 0
    assert (target / "model_index.json").is_file()


def test_a_run_starts_from_another_and_leaves_frozen_weights_alone(runs, capfd):
    out = runs / "decoder"
    policies = [{"paths": paths, "frozen": True} for paths in ("encoder/.*", "quant_.*")]
    changes = {"start": runs / "vae", "out": out, "optimizer.policies": policies}
    args = ["train", "--config", str(runs / "vae.py")]
    for path, value in changes.items():
        args += ["--set", f"{path}={value}"]
    assert main([*args, "--export_dtype", "float16"]) == 0
    first, second = (
        load_file(folder / "export" / "vae" / "diffusion_pytorch_model.safetensors")
        for folder in (runs / "vae", out)
    )
    same = {name for name in first if np.array_equal(first[name], second[name])}
    assert {name for name in first if name.startswith(("encoder.", "quant_conv."))} <= same
    assert "decoder.conv_out.weight" not in same
    assert main([*args[:-6], "--set", f"start={runs}/nowhere", "--set", f"out={out}2"]) == 2
    assert "holds no checkpoints; train that run first" in capfd.readouterr().err


def test_diffusion_forcing_goes_on_from_a_finished_run(runs, capfd):
    config = ["train", "--config", str(runs / "forcing.py")]
    block = ["--set", "model.transformer.num_frame_per_block=2"]
    assert main([*config, *block]) == 2
    assert "causal_block_size is 1; the transformer's num" in capfd.readouterr().err
    assert main(config) == 0
    assert np.load(runs / "long" / "latents.npy").shape == (16, 5, 32, 32, 4)
    logged = rows(runs / "forcing" / "metrics.csv")
    assert len(logged) == 2 and all(np.isfinite(float(row["loss"])) for row in logged)
    assert any(float(row.get("mse_prefix") or 0) > 0 for row in logged)
    # Half of the clips turn at frame 1, which is latent 1 of a VAE that halves the frames.
    values = from_dict(TrainConfig, read_config(str(runs / "forcing.py")))
    recipe = recipe_for(values.kind)
    settings = recipe.resolve(values)
    batches = iter(recipe.loader(settings)(settings.stages[0], 0, ALL_ROWS))
    found = [next(batches) for _ in range(8)]
    starts, given = (np.concatenate([b[name] for b in found]) for name in ("start", "given"))
    assert 0.2 < (given > 0).mean() < 0.8 and set((starts + given)[given > 0]) == {1}
    folder = runs / "forcing" / "export"
    index = json.loads((folder / "model_index.json").read_text())
    assert index["_class_name"] == "SkyReelsV2DiffusionForcingPipeline"
    # It makes windows, not clips as long as those they were cut from.
    assert json.loads((folder / "skyreels_jax.json").read_text())["num_frames"] == 5


def test_balanced_fine_tuning_without_the_fps_embedding(runs, capfd):
    assert main(["train", "--config", str(runs / "unbalanced.py")]) == 0
    out = capfd.readouterr().out
    (drawn,) = (line for line in out.splitlines() if line.startswith("shape: "))
    assert "25.0% of draws" in drawn and "75.0% of draws" in drawn and "ring" not in drawn
    config = runs / "unbalanced" / "export" / "transformer" / "config.json"
    assert json.loads(config.read_text())["inject_sample_info"] is True

    sft = ["train", "--config", str(runs / "sft.py")]
    for change, message in (
        ("data.fps=0", "has an fps embedding. To drop it, give data.fps"),
        ("data.fps=24", "no clip has 24 frames a second; there are 8 of 12, 8 of 16"),
        ("data.balance.attribute=shap", "'shap' does not exist; did you mean 'shape'?"),
        ("data.balance.shares={'ring': 0.5, 'square': 0.5}", "missing: triangle"),
        ("data.balance.atribute=shape", "no field 'atribute'; did you mean 'attribute'?"),
    ):
        assert main([*sft, "--set", change]) == 2
        assert message in capfd.readouterr().err
    assert not (runs / "sft").exists()

    assert main(sft) == 0
    out = capfd.readouterr().out
    assert "the embedding of 12 fps becomes part of time_proj's bias and is dropped" in out
    assert "8 of 16 clips have 12 frames a second" in out and "33.3% of draws, weight" in out
    assert all(np.isfinite(float(row["loss"])) for row in rows(runs / "sft" / "metrics.csv"))
    config = json.loads((runs / "sft" / "export" / "transformer" / "config.json").read_text())
    assert config["inject_sample_info"] is False
    assert json.loads((runs / "sft" / "export" / "skyreels_jax.json").read_text())["fps"] == 12


def test_what_a_run_may_not_become_is_said_before_its_data_are_opened(runs, capfd, monkeypatch):
    monkeypatch.setattr(TextToVideoRecipe, "loader", pytest.fail)
    assert main(["train", "--config", str(runs / "video.py"), "--set", "seed=9"]) == 2
    assert "seed: 0 -> 9: not in a run that is at step 3" in capfd.readouterr().err


def test_stale_latents_are_refused(runs, capfd):
    args = ["train", "--config", str(runs / "video.py"), "--set", "data.num_frames=9"]
    assert main([*args, "--set", f"out={runs}/other"]) == 2
    assert "were made with another VAE" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--config", "nowhere.py"], "no config file nowhere.py"),
        (["--set", "optimizer.learning_rat=1"], "did you mean 'learning_rate'?"),
        (["--set", "modl.z_dim=1"], "did you mean 'model'?"),
        (["--set", "model.transformer.num_layer=1"], "did you mean 'num_layers'?"),
        (["--set", "seed"], "PATH=VALUE"),
        (["--set", "seed=x"], "expected int"),
        (
            ["--set", "model=5"],
            "TrainConfig.model: expected fields by name (transformer, text_encoder), got 5",
        ),
        (["--set", "objective=None"], "TrainConfig.objective: expected fields by name ("),
        (["--set", "model.transformer.num_attention_heads=0"], "heads must be at least 1"),
        (["--set", "model.text_encoder.d_kv=0"], "UMT5Config: d_kv must be at least 1"),
        (["--set", "data.vae=/nowhere"], "train configs/toy/vae.py first"),
        (["--set", "stages=({'steps': 1, 'batch': 4, 'frames': -3},)"], "must be 4k + 1"),
        (["--set", "stages=()"], "stages: a run has one at least"),
        (["--set", "flow_shift=0"], "flow_shift must be more than 0, got 0.0"),
        (
            ["--set", "mesh=8"],
            "mesh: expected fields by name (data, fsdp, tensor, context, attention)",
        ),
        (["--set", "start=tiny"], "tiny holds another model: "),
        (["--set", "data.latents="], "data.latents: name the folder"),
        (["--set", "data.latents=gs://b/latents"], "gs://b/latents is no folder; mount a share"),
        (["--set", "data.middle=2.0"], "data.middle is a probability"),
        (["--set", "data.middle=0.5"], "give each stage fewer frames than data.num_frames = 5"),
        (
            ["--set", "data.middle=0.5", "--set", "stages=[{'steps': 1, 'batch': 4, 'frames': 1}]"],
            "data.middle needs the objective diffusion_forcing",
        ),
        (["--set", "data.turns=0.5"], "data.turns needs the objective diffusion_forcing"),
        (["--set", "data.turns=1.5"], "data.turns is a share of the clips"),
        (["--set", "data.pairs=runs/pairs"], "text_to_video reads data.folder, split, clips"),
        (["--set", "stages=[{'steps': 1, 'batch': 4, 'frames': 9}]"], "wants 9 of 5 frames"),
        (["--set", "optimizer.policies=[{'paths': 'x'}]"], "'x' matches no parameter path"),
        (["--set", "accumulate=3"], "accumulate"),
        (["--set", "mesh={'fsdp': 2, 'tensor': 4}"], "tensor 4 devices cannot share 2 heads"),
        (["--set", "mesh={'fsdp': 2, 'context': 4}"], "tensor 1 x context 4 devices cannot share"),
        (
            [
                *("--set", "mesh={'context': 8, 'attention': 'ring'}"),
                *("--set", "model.transformer.patch_size=(1, 16, 16)"),
            ],
            "8 devices cannot share the 4 tokens of a frame of 64x64 pixels",
        ),
        (["--set", "sample_every=-1"], "sample_every: legal are 0 (never) and"),
        (
            ["--set", "lora={'rank': 1, 'alpha': 1}"],
            "adapters are trained upon a model: name it (start)",
        ),
        (["--set", "kind=vae"], "--set kind: the config is of kind 'text_to_video'"),
        (["--set", "seed=-1"], "seed: legal are 0 to 2147483647, got -1"),
        (["--set", "seed=2147483648"], "seed: legal are 0 to 2147483647"),
        (["--set", "writers=['tensorbord']"], "'tensorbord' is not one of 'tensorboard', 'wandb'"),
        (["--set", "out=/nowhere", "--export_only"], "no checkpoints to export"),
        (["--otu", "x"], "did you mean '--out'?"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_two(runs, capfd, args, message):
    config = ["--config", str(runs / "video.py"), "--set", f"out={runs}/bad"]
    assert main(["train", *config, *args]) == 2
    error = capfd.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("skyreels-jax: ") and message in error
    assert not (runs / "bad").exists()


ADVISED = re.compile(r"--set[ =](mesh\.\w+=-?\w+)")


def test_what_is_said_of_meshes_is_accepted():
    """What messages and scripts tell people to add, on a config that has no mesh."""
    root = pathlib.Path(__file__).parents[2]
    files = [*root.glob("skyreels_jax/**/*.py"), *root.glob("launch/*")]
    advised = {told for file in files for told in ADVISED.findall(file.read_text("utf-8"))}
    assert {"mesh.fsdp=-1", "mesh.fsdp=8"} <= advised
    values = read_config(str(root / "configs" / "toy" / "pretrain.py"))
    for told in advised:
        axis, size = told.removeprefix("mesh.").split("=")
        assert resolved(values, [told])[1].mesh == MeshConfig(**{axis: int(size)})


@pytest.mark.parametrize(
    "change", ["remat=block", "flow_shift=3.0", "mesh.context=-1", "mesh.attention=ring"]
)
def test_what_a_vae_does_not_read_is_refused(change):
    values = read_config(str(pathlib.Path(__file__).parents[2] / "configs" / "toy" / "vae.py"))
    name = change.partition("=")[0]
    with pytest.raises(UserError, match=f"vae has no transformer: leave out {name} "):
        resolved(values, [change])
    assert resolved(values, ["mesh.fsdp=-1"])[1].mesh == MeshConfig(fsdp=-1)


def test_unknown_keys_of_a_config_file_are_refused(runs, tmp_path, capfd):
    for old, new, message in (
        ('"kind"', '"knd"', "did you mean 'kind'?"),
        ('"ffn_dim"', '"ffn_dims"', "did you mean 'ffn_dim'?"),
        ('"caption_dropout"', '"caption_drop"', "did you mean 'caption_dropout'?"),
        ('"caption_dropout": 0.5', '"name": "flow_match"', "did you mean 'flow_matching'?"),
        ('{"caption_dropout": 0.5}', '"flow"', "objective: expected its fields by name, got 'fl"),
        ("def get_config", "def config", "no get_config()"),
        ("return ml_collections.ConfigDict", "return dict", "returns an ml_collections.ConfigDict"),
        ("def get_config():", "def get_config()", "line 4: expected ':'"),
    ):
        path = tmp_path / "bad.py"
        path.write_text((runs / "video.py").read_text().replace(old, new))
        assert main(["train", "--config", str(path)]) == 2
        assert message in capfd.readouterr().err


def test_the_shipped_configs_resolve():
    from skyreels_jax.cli.recipes.base import config_class, recipe_for
    from skyreels_jax.cli.train import read_config
    from skyreels_jax.core.config import from_dict

    for path in sorted((pathlib.Path(__file__).parents[2] / "configs" / "toy").glob("*.py")):
        values = read_config(str(path))
        config = from_dict(config_class(values["kind"]), values)
        assert recipe_for(config.kind).resolve(config).total_steps > 0
