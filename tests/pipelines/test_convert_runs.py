"""Conversion of runs and checkpoints: the same values, from wherever and however they lie."""

import json
import shutil

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from diffusers import SkyReelsV2Pipeline
from flax import nnx
from jax.sharding import NamedSharding, PartitionSpec
from runs import TRAINED, run_config, save, trained

from skyreels_jax.checkpoint import CheckpointParams, Checkpoints, manager, restore_params
from skyreels_jax.cli.main import main
from skyreels_jax.cli.recipes.start import started
from skyreels_jax.core.errors import UserError
from skyreels_jax.core.tree import named_leaves
from skyreels_jax.pipelines import load
from skyreels_jax.pipelines.convert import convert
from skyreels_jax.pipelines.encoders import open_encoders
from skyreels_jax.pipelines.generate import initial_noise
from skyreels_jax.weights.reader import open_source

PARTS = (*TRAINED, "vae")


@pytest.fixture(scope="module")
def run(tmp_path_factory, micro_folder):
    """A run of two checkpoints: averages are the micro model's in the second one."""
    run = tmp_path_factory.mktemp("runs") / "run"
    save(run, 3, trained(2.0), None, vae=micro_folder / "vae")
    save(run, 7, trained(3.0), trained(), vae=micro_folder / "vae")
    return run


def bits(folder):
    """Returns {component: {tensor: (dtype, shape, bytes)}} of a diffusers folder."""
    found = {}
    for name in PARTS:
        source = open_source(folder / name)
        read = {key: source.read(key) for key in source.keys()}  # noqa: SIM118
        found[name] = {key: (x.dtype, x.shape, x.tobytes()) for key, x in read.items()}
    return found


def kernel(folder):
    """Returns one of the weights in a diffusers folder."""
    return open_source(folder / "transformer").read("blocks.1.attn1.to_q.weight")


def test_a_run_becomes_the_model_that_was_averaged(run, micro_folder, tmp_path):
    convert(run, tmp_path / "out", form="diffusers")
    assert bits(tmp_path / "out") == bits(micro_folder)
    for file in ("model_index.json", "transformer/config.json", "scheduler/scheduler_config.json"):
        assert json.loads((tmp_path / "out" / file).read_text()) == json.loads(
            (micro_folder / file).read_text()
        )
    assert load.find(str(tmp_path / "out")).defaults == load.find(str(run)).defaults


def test_which_weights_of_which_checkpoint(run, micro_folder, tmp_path):
    plain, checkpoints = kernel(micro_folder), run / "checkpoints"
    for name, source, weights, scale in (
        ("a", run, "ema", 1),
        ("b", run, "raw", 3),
        ("c", checkpoints / "7", None, 1),
        ("d", checkpoints / "3", None, 2),
        ("e", checkpoints / "3", "raw", 2),
    ):
        convert(source, tmp_path / name, form="diffusers", weights=weights)
        np.testing.assert_array_equal(kernel(tmp_path / name), np.float32(scale) * plain)
    with pytest.raises(UserError, match="checkpoints/3 holds no averaged weights .ema.; legal: ra"):
        convert(checkpoints / "3", tmp_path / "f", form="diffusers", weights="ema")
    assert not (tmp_path / "f").exists()
    # A single checkpoint can be loaded, too.
    model = load.find(str(checkpoints / "3")).read("float32")["transformer"]
    found = nnx.to_pure_dict(nnx.state(model))["blocks"]["attn1"]["q"]["kernel"][1]
    np.testing.assert_array_equal(found, 2 * plain.T)


def test_a_run_that_goes_on_meanwhile_is_that_of_one_step(run, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        latest = iter([3])
        patch.setattr(Checkpoints, "latest", lambda _: next(latest, 7))
        convert(run, tmp_path / "out", form="orbax")
        latest = iter([3])
        params = load.find(str(run)).params(None)
    name = "blocks/attn1/q/kernel"
    for found in (params, load.find(str(tmp_path / "out")).params(None)):
        expected = np.float32(2) * trained()["transformer"]["blocks"]["attn1"]["q"]["kernel"]
        np.testing.assert_array_equal(found["transformer"].read(name), expected)
    convert(run / "checkpoints" / "3", tmp_path / "same", form="orbax")
    first, second = (load.find(str(tmp_path / name)).fingerprint for name in ("out", "same"))
    assert first == second


def test_only_what_was_trained_is_cast(run, micro_folder, tmp_path):
    convert(run, tmp_path / "out", form="diffusers", dtype="bfloat16", max_shard_bytes=40_000)
    types = {
        name: {kind for kind, _, _ in tensors.values()}
        for name, tensors in bits(tmp_path / "out").items()
    }
    half, full = {np.dtype("bfloat16")}, {np.dtype("float32")}
    assert types == {"transformer": half, "text_encoder": half, "vae": full}
    assert len(list((tmp_path / "out" / "transformer").glob("*-of-*.safetensors"))) > 1


def test_pytorch_diffusers_makes_the_film_that_the_run_makes(run, tmp_path):
    import torch

    convert(run, tmp_path / "out", form="diffusers")
    prompt, noise = "A blue square rests in snow.", np.asarray(initial_noise([5], (3, 4, 6, 4)))
    options = {"num_frames": 9, "height": 32, "width": 48, "guidance_scale": 3.0}
    ours = load.load(str(run), dtype="float32")
    ours = ours.generate(prompt, latents=noise, inference_steps=3, **options).frames
    theirs = SkyReelsV2Pipeline.from_pretrained(tmp_path / "out", dtype=torch.float32)
    theirs.set_progress_bar_config(disable=True)
    theirs = theirs(
        prompt,
        negative_prompt="",
        latents=torch.from_numpy(np.moveaxis(noise, -1, 1).copy()),
        num_inference_steps=3,
        output_type="np",
        **options,
    ).frames[0]
    assert ours.std() > 5  # two empty films would agree too
    error = np.mean(np.square(np.round(theirs * 255) - ours))
    assert 10 * np.log10(255**2 / max(error, 1e-9)) > 40


@pytest.mark.parametrize("layers_apart", [True, False])
def test_what_eight_devices_wrote_is_read_by_one(layers_apart, micro_folder, tmp_path, monkeypatch):
    """Also if all layers that a device has are one chunk, as earlier versions wrote them."""
    if not layers_apart:
        monkeypatch.setattr(manager, "chunked", lambda leaf: ocp.SaveArgs())
    mesh = jax.make_mesh((8,), ("fsdp",), devices=jax.devices())

    def divided(leaf):
        axes = [
            "fsdp" if axis and not length % 8 and leaf.ndim > 1 else None
            for axis, length in enumerate(leaf.shape)
        ]
        if "fsdp" in axes:  # the last that can be
            last = len(axes) - 1 - axes[::-1].index("fsdp")
            axes = [name if axis == last else None for axis, name in enumerate(axes)]
        return jax.device_put(leaf, NamedSharding(mesh, PartitionSpec(*axes)))

    params = jax.tree.map(divided, trained())
    spread = [leaf for leaf in jax.tree.leaves(params) if not leaf.is_fully_replicated]
    assert len(spread) > 20
    save(tmp_path / "run", 1, params, None, vae=micro_folder / "vae")
    stored = CheckpointParams(tmp_path / "run" / "checkpoints" / "1")
    chunks = stored.leaves["transformer/blocks/ffn/up/kernel"].storage.chunk_shape
    assert chunks == ((1 if layers_apart else 2), 24, 6)
    convert(tmp_path / "run", tmp_path / "out", form="diffusers")
    assert bits(tmp_path / "out") == bits(micro_folder)


def test_to_orbax_and_back_is_bit_exact(micro_folder, tmp_path):
    convert(micro_folder, tmp_path / "start", form="orbax")
    assert not list((tmp_path / "start").glob("transformer/*.safetensors"))
    convert(tmp_path / "start", tmp_path / "back", form="diffusers")
    assert bits(tmp_path / "back") == bits(micro_folder)
    for file in sorted(micro_folder.rglob("*.json")):
        same = tmp_path / "back" / file.relative_to(micro_folder)
        assert json.loads(same.read_text()) == json.loads(file.read_text()), file
    stored = restore_params(tmp_path / "start", trained())
    jax.tree.map(np.testing.assert_array_equal, stored, trained())
    with Checkpoints(tmp_path / "start" / "checkpoints") as checkpoints:
        assert checkpoints.latest() == 0


def test_an_official_folder_becomes_what_training_starts_from(micro_folder, tmp_path):
    pytest.importorskip("torch")
    convert(micro_folder, tmp_path / "official", form="official", dtype="bfloat16")
    convert(tmp_path / "official", tmp_path / "start", form="orbax")
    stored = CheckpointParams(tmp_path / "start" / "checkpoints" / "0")
    assert {leaf.dtype for leaf in stored.leaves.values()} == {np.dtype("bfloat16")}
    made = started(str(tmp_path / "start"), trained())
    expected = jax.tree.map(lambda leaf: leaf.astype("bfloat16").astype("float32"), trained())
    for (path, leaf), (_, other) in zip(named_leaves(made), named_leaves(expected), strict=True):
        assert leaf.dtype == np.float32, path
        np.testing.assert_array_equal(leaf, other, err_msg=path)
    convert(tmp_path / "start", tmp_path / "again", form="official")
    state = open_source(tmp_path / "again" / "models_t5_umt5-xxl-enc-bf16.pth")
    first = open_source(tmp_path / "official" / "models_t5_umt5-xxl-enc-bf16.pth")
    for key in first.keys():  # noqa: SIM118
        np.testing.assert_array_equal(state.read(key), first.read(key))


def test_a_converted_model_is_loaded_as_any_other(micro, micro_folder, run, tmp_path):
    convert(micro_folder, tmp_path / "start", form="orbax")
    source = load.find(str(tmp_path / "start"))
    assert source.defaults == micro.source.defaults
    prompt = "A red ring glides slowly to the right."
    film = source.load().generate(prompt)
    np.testing.assert_array_equal(film.frames, micro.generate(prompt).frames)
    prints = {source.fingerprint}
    for name, options in (("raw", {"weights": "raw"}), ("half", {"dtype": "float16"})):
        convert(run, tmp_path / name, form="orbax", **options)
        prints.add(load.find(str(tmp_path / name)).fingerprint)
    assert len(prints) == 3


def test_what_has_no_encoders_to_be_opened_says_where_they_are(micro_folder, run, tmp_path):
    start = tmp_path / "start"
    convert(micro_folder, start, form="orbax")
    for place, message in (
        (start, f"convert {start} DST --to diffusers"),
        (start / "checkpoints" / "0", f"convert {start} DST --to diffusers"),
        (run, f"give what it exported: {run}/export"),
        (run / "checkpoints" / "7", f"give what it exported: {run}/export"),
    ):
        with pytest.raises(UserError, match=message):
            open_encoders(str(place))


def test_a_run_that_was_trained_anew_has_another_fingerprint(micro_folder, tmp_path):
    run, prints = tmp_path / "run", []
    for scale in (1.0, 2.0):
        save(run, 7, trained(scale), None, vae=micro_folder / "vae")
        shutil.copytree(run, tmp_path / "copy")
        found = {load.find(str(tmp_path / name)).fingerprint for name in ("run", "copy")}
        assert len(found) == 1
        prints += found
        shutil.rmtree(run)
        shutil.rmtree(tmp_path / "copy")
    assert prints[0] != prints[1]


def test_values_that_a_type_cannot_hold_leave_nothing(micro_folder, tmp_path):
    large = trained()
    large["transformer"]["blocks"]["ffn"]["up"]["kernel"][1, 0, 0] = 7e4
    save(tmp_path / "run", 1, large, None, vae=micro_folder / "vae")
    for form in ("diffusers", "orbax"):
        with pytest.raises(UserError, match="holds values beyond float16"):
            convert(tmp_path / "run", tmp_path / "out", form=form, dtype="float16")
    assert [p.name for p in tmp_path.iterdir()] == ["run"]


@pytest.mark.parametrize(
    ("source", "options", "message"),
    [
        ("micro", ["--weights", "ema"], "--weights ema: {micro} is no training run; leave it out"),
        ("micro", ["--lora", "alone"], "--lora alone: {micro} is no training run; leave it out"),
        ("run", ["--lora", "merged"], "--lora merged: {run} trained no adapters; leave it out"),
        ("run", ["--weights", "best"], "best"),
        ("run", ["--to", "gguf"], "gguf"),
        ("vae", [], "trained a vae; give a text_to_video or flow_dpo run"),
        ("empty", [], "no checkpoint under {empty}/checkpoints yet"),
        ("odd", [], "holds another model: "),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    source, options, message, run, micro_folder, tmp_path, capfd
):
    places = {"run": run, "micro": micro_folder}
    places |= {name: tmp_path / name for name in ("vae", "empty", "odd")}
    (tmp_path / "empty" / "checkpoints").mkdir(parents=True)
    config = run_config(micro_folder / "vae")
    for name, changes in (("vae", {"kind": "vae"}), ("odd", {})):
        with Checkpoints(tmp_path / name / "checkpoints") as checkpoints:
            state = {"params": {"transformer": {"head": np.ones(3, np.float32)}}}
            checkpoints.save(1, state, data={}, config=config | changes)
    target = tmp_path / "out"
    assert main(["convert", str(places[source]), str(target), "--to", "diffusers", *options]) == 2
    out, err = capfd.readouterr()
    assert message.format(**places) in err and err.count("\n") == 1 and not out
    assert not target.exists() and not list(tmp_path.glob(".*"))
