"""Bad input: one line that says what is legal, exit code 2, no file written, no weights loaded."""

import json
import shutil
import sys

import pytest

from skyreels_jax.cli.main import main
from skyreels_jax.models import layout
from skyreels_jax.pipelines.source import ModelSource

GOOD = ["--prompt", "A large red circle moves left."]


@pytest.fixture
def refused(micro_folder, tmp_path, capsys):
    """Runs `generate` on a copy of the micro model; returns the one line of a clean refusal."""
    model = tmp_path / "model"
    shutil.copytree(micro_folder, model)

    def run(*argv, model=model) -> str:
        before = sorted(tmp_path.rglob("*"))
        code = main(
            ["generate", "--model_id", str(model), "--outdir", str(tmp_path / "out"), *argv]
        )
        out, err = capsys.readouterr()
        assert (code, out, err.count("\n")) == (2, "", 1), err
        assert sorted(tmp_path.rglob("*")) == before
        return err

    run.model = model
    return run


@pytest.fixture
def no_weights(monkeypatch):
    """Fails the test if a model is loaded."""
    monkeypatch.setattr(ModelSource, "load", lambda *_, **__: pytest.fail("weights were loaded"))


@pytest.mark.usefixtures("no_weights")
@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--prompt", ""], "the prompt is empty; say in a sentence"),
        (["--prompt", " \t"], "the prompt is empty"),
        (["--prompt", "circle " * 600], "has 601 tokens; at most 512 are legal"),
        ([*GOOD, "--negative_prompt", "dark " * 600], "has 601 tokens; at most 512 are legal"),
        ([*GOOD, "--num_frames", "32"], "num_frames 32 is not 4k+1; nearest legal: 29 or 33"),
        ([*GOOD, "--num_frames", "-1"], "legal: 1 to 4093"),
        (
            [*GOOD, "--resolution", "60x64"],
            "height 60 is not divisible by 16; nearest",
        ),
        ([*GOOD, "--resolution", "64x100"], "width 100 is not divisible by 16"),
        ([*GOOD, "--resolution", "large"], "540P, 720P or HxW"),
        (
            [*GOOD, "--inference_steps", "-5"],
            "inference_steps -5 is out of range; legal: 1 to",
        ),
        ([*GOOD, "--inference_steps", "0"], "legal: 1 to 1000"),
        ([*GOOD, "--guidance_scale", "nan"], "guidance_scale nan is out of range"),
        ([*GOOD, "--shift", "0"], "shift 0 is out of range; legal: more than 0"),
        ([*GOOD, "--fps", "-24"], "fps -24 is out of range"),
        ([*GOOD, "--fps", "1e-9"], "fps 1e-09 is out of range; legal: 0.01 to 240"),
        ([*GOOD, "--mesh", "data"], "--mesh 'data' is not like data=2,context=-1, each axis once"),
        ([*GOOD, "--mesh", "data=2,data=4"], "--mesh 'data=2,data=4' is not like data=2,"),
        ([*GOOD, "--seed", "-1"], "seed -1 is out of range; legal: 0 to 4294967295"),
        ([*GOOD, "--dtype", "float8"], "legal: float32, bfloat16"),
        (
            [*GOOD, "--guidance", "4"],
            "'--guidance'; did you mean '--guidance_scale'?",
        ),
        (["--prompts_file", "/absent.txt"], "cannot read prompts from '/absent.txt'"),
        (["--from", "/absent.json"], "cannot read '/absent.json'"),
        ([*GOOD, "--outdir", "/dev/null/films"], "cannot write to '/dev/null/films'"),
        ([*GOOD, "--outdir", "/proc/films"], "cannot write to '/proc/films'"),
        ([*GOOD, "--outdir", "gs://b/films"], "gs://b/films is no folder; mount a share on which"),
    ],
)
def test_requests(refused, argv, message):
    assert message in refused(*argv)


@pytest.mark.usefixtures("no_weights")
def test_no_ffmpeg(refused, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    assert "writing .mp4 needs ffmpeg, which comes with PyAV: pip install av" in refused(*GOOD)


@pytest.mark.usefixtures("no_weights")
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("not json", "is not json"),
        ("[1]", "is not a recipe"),
        ('{"promt": "a"}', "Recipe has no field 'promt'; did you mean 'prompt'?"),
        ("{}", "Recipe needs model_id, fingerprint, prompt"),
    ],
)
def test_recipes(refused, tmp_path, text, message):
    path = tmp_path / "film.json"
    path.write_text(text)
    assert message in refused("--from", str(path))


@pytest.mark.usefixtures("no_weights")
def test_latents_given_by_hand_cannot_be_repeated(refused, tmp_path):
    made = {"model_id": "tiny", "fingerprint": "", "prompt": "a", "negative_prompt": "", "seed": 0}
    made |= {
        "num_frames": 9,
        "height": 64,
        "width": 64,
        "inference_steps": 2,
        "guidance_scale": 1.0,
    }
    made |= {"shift": 1.0, "fps": 12.0, "dtype": "float32", "latents": "ab12"}
    made |= {"skyreels_jax": "0", "jax": "0", "device": "cpu"}
    path = tmp_path / "film.json"
    path.write_text(json.dumps(made))
    assert "began from latents given by hand" in refused("--from", str(path))


@pytest.mark.usefixtures("no_weights")
@pytest.mark.parametrize("model", ["absent-model", "no/such-model"])
def test_no_such_model(refused, model):
    assert model in refused(*GOOD, model=model)


@pytest.mark.usefixtures("no_weights")
def test_a_folder_that_is_no_model(refused, tmp_path):
    (tmp_path / "empty").mkdir()
    assert "expected model_index.json" in refused(*GOOD, model=tmp_path / "empty")


@pytest.mark.usefixtures("no_weights")
def test_unknown_config_keys(refused):
    path = refused.model / layout.SETTINGS
    path.write_text(path.read_text().replace("num_frames", "num_frame"))
    assert "has no field 'num_frame'; did you mean 'num_frames'?" in refused(*GOOD)


@pytest.mark.usefixtures("no_weights")
def test_unknown_model_config_keys(refused):
    path = refused.model / "transformer" / "config.json"
    path.write_text(path.read_text().replace('"ffn_dim"', '"fnn_dim"'))
    assert "has no field 'fnn_dim'; did you mean 'ffn_dim'?" in refused(*GOOD)


def test_unknown_training_config_keys(tmp_path, capsys):
    config = tmp_path / "config.py"
    config.write_text(
        "import ml_collections\n"
        "def get_config():\n"
        "    return ml_collections.ConfigDict({'kind': 'vae', 'ot': 'runs/x'})\n"
    )
    assert main(["train", "--config", str(config)]) == 2
    err = capsys.readouterr().err
    assert "has no field 'ot'; did you mean 'out'?" in err and err.count("\n") == 1


def weights(model, part="transformer"):
    return next((model / part).glob("*.safetensors"))


@pytest.mark.parametrize("part", ["transformer", "text_encoder", "vae"])
def test_missing_weights(refused, part):
    weights(refused.model, part).unlink()
    assert f"{part}: no weights; expected *.safetensors" in refused(*GOOD)


@pytest.mark.parametrize("keep", [0, 5, 1000])
def test_corrupt_weights(refused, keep):
    path = weights(refused.model)
    path.write_bytes(path.read_bytes()[:keep])
    assert "not a complete safetensors file" in refused(*GOOD)


def test_weights_of_another_architecture(refused):
    path = refused.model / "transformer" / "config.json"
    path.write_text(path.read_text().replace('"num_layers": 2', '"num_layers": 3'))
    line = refused(*GOOD)
    assert "does not hold this model" in line and "missing blocks.2.attn1.to_q.weight" in line


def test_weights_of_another_width(refused):
    path = refused.model / "transformer" / "config.json"
    path.write_text(path.read_text().replace('"ffn_dim": 48', '"ffn_dim": 64'))
    assert "mis-shaped blocks.0.ffn.net.0.proj.weight: [48, 24], expected [64, 24]" in refused(
        *GOOD
    )


@pytest.mark.usefixtures("no_weights")
def test_another_pipeline(refused):
    path = refused.model / "model_index.json"
    path.write_text(path.read_text().replace("SkyReelsV2Pipeline", "FluxPipeline"))
    assert "model_index.json is for FluxPipeline; legal: SkyReelsV2Pipeline" in refused(*GOOD)


@pytest.mark.usefixtures("no_weights")
def test_channels_that_do_not_fit_the_vae(refused):
    path = refused.model / "transformer" / "config.json"
    path.write_text(path.read_text().replace('"in_channels": 4', '"in_channels": 12'))
    assert "has 12 channels in and 4 out; with its VAE it needs 4 in and 4 out" in refused(*GOOD)


@pytest.mark.usefixtures("no_weights")
def test_an_image_for_a_text_model(refused):
    line = refused(*GOOD, "--image", "/absent.png")
    assert "is a text-to-video model and takes no image" in line


@pytest.mark.usefixtures("no_weights")
def test_a_damaged_tokenizer(refused):
    (refused.model / "tokenizer" / "tokenizer.json").write_text("{")
    assert "tokenizer: not a tokenizer that can be read" in refused(*GOOD)
