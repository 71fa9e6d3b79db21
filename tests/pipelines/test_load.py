"""What a model can be loaded from."""

import dataclasses
import pathlib

import jax
import numpy as np
import pytest

import skyreels_jax
from skyreels_jax.checkpoint import Checkpoints
from skyreels_jax.core.config import to_dict
from skyreels_jax.core.errors import UserError
from skyreels_jax.models import layout
from skyreels_jax.pipelines import cache, load, places
from skyreels_jax.testing.micro import micro_configs, random_params, write_micro_model

PROMPT = "A red ring glides slowly to the right."


def test_the_shipped_name(monkeypatch, micro_folder, tmp_path):
    (tmp_path / "assets").mkdir()
    (tmp_path / "assets" / "tiny").symlink_to(micro_folder)
    monkeypatch.setattr(places.importlib.resources, "files", lambda name: tmp_path)
    source = load.find("tiny")
    assert (source.model_id, source.defaults.num_frames) == ("tiny", 9)


def test_a_hub_id_is_fetched_small_first(monkeypatch, micro_folder):
    calls = []

    def snapshot_download(model_id, *, allow_patterns):
        calls.append((model_id, allow_patterns is not None))
        return str(micro_folder)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    source = load.find("some/model")
    source.request(prompt=PROMPT)
    assert calls == [("some/model", True)]
    source.load()
    assert calls == [("some/model", True), ("some/model", False)]
    assert source.model_id == "some/model"


@pytest.mark.parametrize("name", ["absent/model", "absent", "./absent"])
def test_what_is_nowhere(name):
    with pytest.raises(UserError, match="absent"):
        load.find(name)


def test_an_official_folder(micro, micro_folder, tmp_path):
    pytest.importorskip("torch")
    from skyreels_jax.models.transfer import convert_folder

    convert_folder(micro_folder, tmp_path / "official", form="official")
    model = skyreels_jax.load(str(tmp_path / "official"))
    options = {
        "num_frames": 9,
        "height": 32,
        "width": 48,
        "inference_steps": 2,
        "guidance_scale": 3,
    }
    film = model.generate(PROMPT, negative_prompt="", shift=3, **options)
    np.testing.assert_array_equal(film.frames, micro.generate(PROMPT).frames)


def test_a_training_run(micro, micro_folder, tmp_path):
    configs = micro_configs()
    trained = {name: random_params(name, configs[name]) for name in ("transformer", "text_encoder")}
    zeros = jax.tree.map(np.zeros_like, trained)
    config = {
        "kind": "text_to_video",
        "model": {name: to_dict(configs[name]) for name in trained},
        "data": {"vae": str(micro_folder / "vae"), "num_frames": 9, "middle": 0.0},
        "stages": [{"frames": 0}],
        "flow_shift": 3.0,
    }
    with Checkpoints(tmp_path / "run" / "checkpoints") as checkpoints:
        checkpoints.save(7, {"params": zeros, "ema": trained}, data={}, config=config)
    model = skyreels_jax.load(str(tmp_path / "run"))
    assert (model.source.defaults.num_frames, model.source.defaults.fps) == (9, 12)
    options = {"height": 32, "width": 48, "inference_steps": 2, "guidance_scale": 3}
    film = model.generate(PROMPT, **options)
    np.testing.assert_array_equal(film.frames, micro.generate(PROMPT).frames)


def test_a_run_of_something_else(tmp_path):
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        state = {"params": {"a": np.zeros(1, np.float32)}, "ema": None}
        checkpoints.save(1, state, data={}, config={"kind": "vae"})
    with pytest.raises(UserError, match="trained a vae; give a text_to_video or flow_dpo run"):
        load.find(str(tmp_path))


def test_the_fingerprint_follows_the_weights(micro_folder, tmp_path):
    first = load.find(str(micro_folder)).fingerprint
    again = load.find(str(write_micro_model(tmp_path / "again"))).fingerprint
    assert first == again
    params = random_params("vae", micro_configs()["vae"])
    params["decoder"]["conv_out"]["bias"] += 1e-3
    layout.save_component(tmp_path / "again" / "vae", "vae", micro_configs()["vae"], params)
    assert load.find(str(tmp_path / "again")).fingerprint != first


def test_frame_rate_reaches_models_that_ask_for_it(tmp_path):
    asked = dataclasses.replace(micro_configs()["transformer"], inject_sample_info=True)
    model = skyreels_jax.load(str(write_micro_model(tmp_path, transformer=asked)))
    films = [model.generate(PROMPT, num_frames=1, fps=fps).frames for fps in (16, 24, 12)]
    assert (films[0] != films[1]).any()
    np.testing.assert_array_equal(films[1], films[2])


def test_parts_that_do_not_fit(tmp_path):
    wide = dataclasses.replace(micro_configs()["transformer"], text_dim=64)
    with pytest.raises(UserError, match="reads text of width 64, its text encoder writes 32"):
        load.find(str(write_micro_model(tmp_path, transformer=wide)))


@pytest.mark.parametrize(
    ("folder", "expected"), [(None, "~/.cache/skyreels_jax"), ("/x/y", "/x/y"), ("", None)]
)
def test_compilation_cache(monkeypatch, folder, expected):
    before = jax.config.jax_compilation_cache_dir
    cache.enable_compilation_cache()
    assert jax.config.jax_compilation_cache_dir == before  # ours never replaces the caller's
    if folder is None:
        monkeypatch.delenv("SKYREELS_JAX_CACHE", raising=False)
    else:
        monkeypatch.setenv("SKYREELS_JAX_CACHE", folder)
    try:
        jax.config.update("jax_compilation_cache_dir", None)
        cache.enable_compilation_cache()
        found = jax.config.jax_compilation_cache_dir
    finally:
        jax.config.update("jax_compilation_cache_dir", before)
    assert found == (expected and str(pathlib.Path(expected).expanduser()))
