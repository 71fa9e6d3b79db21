"""What a model can be loaded from."""

import dataclasses
import json
import pathlib
import shutil

import jax
import numpy as np
import pytest
from huggingface_hub.utils import filter_repo_objects

import skyreels_jax
from skyreels_jax.checkpoint import Checkpoints
from skyreels_jax.core import programs
from skyreels_jax.core.config import to_dict
from skyreels_jax.core.errors import UserError
from skyreels_jax.models import layout
from skyreels_jax.pipelines import cache, load, places
from skyreels_jax.pipelines.convert import convert
from skyreels_jax.testing.micro import micro_configs, random_params, write_micro_model

PROMPT = "A red ring glides slowly to the right."


def test_the_shipped_name(monkeypatch, micro_folder, tmp_path):
    (tmp_path / "assets").mkdir()
    (tmp_path / "assets" / "tiny").symlink_to(micro_folder)
    monkeypatch.setattr(places.importlib.resources, "files", lambda name: tmp_path)
    source = load.find("tiny")
    assert (source.model_id, source.defaults.num_frames) == ("tiny", 9)


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """Lays a folder on the hub; returns which of its fetches were of all files."""

    def publish(folder):
        fetched, files = [], [p.relative_to(folder) for p in folder.rglob("*") if p.is_file()]
        here = tmp_path / "cache" / "0123abcd"  # of a commit, as in the real one

        def snapshot_download(model_id, *, allow_patterns):
            fetched.append(allow_patterns is None)
            for file in filter_repo_objects(map(str, files), allow_patterns=allow_patterns):
                (here / file).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(folder / file, here / file)
            return str(here)

        monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
        return fetched

    return publish


def test_a_hub_id_is_fetched_small_first(hub, micro_folder):
    fetched = hub(micro_folder)
    source = load.find("some/model")
    source.request(prompt=PROMPT)
    assert fetched == [False]
    source.load()
    assert fetched == [False, True]
    assert source.model_id == "some/model"


def test_the_fingerprint_of_a_hub_id_is_that_of_its_weights(hub, micro_folder):
    hub(micro_folder)
    first = load.find("some/model").fingerprint
    assert first == load.find("some/model").fingerprint == load.find(str(micro_folder)).fingerprint


def test_there_is_no_fingerprint_without_weights(tmp_path):
    folder = write_micro_model(tmp_path)
    (folder / "vae" / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(UserError, match="vae: no weights"):
        _ = load.find(str(folder)).fingerprint


def test_an_official_hub_id_says_itself_what_it_is_for(hub, forcing_folder, tmp_path):
    """The cache names folders by commits, and no weights are fetched for a request."""
    pytest.importorskip("torch")
    convert(forcing_folder, tmp_path / "official", form="official")
    extra = tmp_path / "official" / layout.EXTRA
    said = json.loads(extra.read_text())
    del said["pipeline"]  # as in the releases
    extra.write_text(json.dumps(said))
    fetched = hub(tmp_path / "official")
    source = load.find("Skywork/SkyReels-V2-DF-1.3B-540P")
    source.request(prompt=PROMPT, num_frames=17, base_num_frames=9)
    assert not load.find("Skywork/SkyReels-V2-T2V-1.3B-540P").forcing
    assert fetched == [False, False]
    assert source.read("float32", ["vae"]).keys() == {"vae"}


def test_a_hub_id_of_no_model(hub, tmp_path):
    (tmp_path / "bert").mkdir()
    (tmp_path / "bert" / "config.json").write_text('{"architectures": ["BertModel"]}')
    fetched = hub(tmp_path / "bert")
    with pytest.raises(UserError, match="not a model folder"):
        load.find("some/bert")
    assert fetched == [False]


@pytest.mark.parametrize("name", ["absent/model", "absent", "./absent"])
def test_what_is_nowhere(name):
    with pytest.raises(UserError, match="absent"):
        load.find(name)


def test_an_official_folder(micro, micro_folder, tmp_path):
    pytest.importorskip("torch")
    convert(micro_folder, tmp_path / "official", form="official")
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
    kept = []  # nothing is written there, and tests behind this one keep no programs
    monkeypatch.setattr(programs, "keep_programs", kept.append)
    seconds = jax.config.jax_persistent_cache_min_compile_time_secs
    try:
        jax.config.update("jax_compilation_cache_dir", None)
        cache.enable_compilation_cache()
        found = jax.config.jax_compilation_cache_dir
    finally:
        jax.config.update("jax_compilation_cache_dir", before)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", seconds)
    folder = expected and pathlib.Path(expected).expanduser()
    assert found == (folder and str(folder))
    assert kept == ([folder / "programs"] if folder else [])
