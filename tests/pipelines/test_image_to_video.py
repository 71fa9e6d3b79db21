"""Films from an image: equal to diffusers' pipeline, and what the image changes."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from flax import nnx
from PIL import Image

import skyreels_jax
from skyreels_jax.cli.main import main
from skyreels_jax.core.errors import UserError
from skyreels_jax.models import layout
from skyreels_jax.pipelines import generate as parts
from skyreels_jax.pipelines import load
from skyreels_jax.pipelines.image_to_video import first_frame_latents, first_frame_mask
from skyreels_jax.pipelines.source import ModelSource
from skyreels_jax.testing.micro import micro_configs, write_micro_model

PROMPT = "A large red circle moves left."


def picture(height, width, seed=0):
    """Returns a smooth random image: noise would not survive resizing."""
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 6, 3), np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_micro_model(tmp_path_factory.mktemp("image") / "model", image=True)


@pytest.fixture(scope="module")
def model(folder):
    return skyreels_jax.load(str(folder))


@pytest.fixture(scope="module")
def pipeline(folder):
    import torch
    from diffusers import SkyReelsV2ImageToVideoPipeline
    from transformers import CLIPImageProcessorPil

    # Given by hand, because the class in model_index.json warns where there is no torchvision.
    processor = CLIPImageProcessorPil.from_pretrained(folder / "image_processor")
    pipe = SkyReelsV2ImageToVideoPipeline.from_pretrained(
        folder, dtype=torch.float32, image_processor=processor
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def denoised(monkeypatch, model, **options):
    """Returns our film's last latents, [T, H, W, C]."""
    kept = []

    def keep(*args, **kwargs):
        kept.append((yield from original(*args, **kwargs)))
        return kept[-1]

    original = parts.denoise
    monkeypatch.setattr(parts, "denoise", keep)
    model.generate(PROMPT, **options)
    return np.asarray(kept[0][0])


SETTINGS = {
    "guided": ((3, 4, 6), 4, {"guidance_scale": 4.0, "negative_prompt": "dark  night &amp; rain"}),
    "unguided, upright, one frame": ((1, 6, 4), 3, {"guidance_scale": 1.0}),
    "more guidance": ((3, 4, 6), 5, {"guidance_scale": 7.0, "negative_prompt": ""}),
}


@pytest.mark.parametrize(("shape", "steps", "options"), SETTINGS.values(), ids=SETTINGS)
def test_final_latents_are_those_of_diffusers(monkeypatch, model, pipeline, shape, steps, options):
    import torch

    noise = np.asarray(parts.initial_noise([5], (*shape, 4)))
    height, width = 8 * shape[1], 8 * shape[2]
    image = picture(3 * height, 3 * width)
    sizes = {"num_frames": 4 * shape[0] - 3, "height": height, "width": width}
    ours = denoised(
        monkeypatch, model, image=image, latents=noise, inference_steps=steps, **sizes, **options
    )
    theirs = pipeline(
        Image.fromarray(image),
        PROMPT,
        latents=torch.from_numpy(np.moveaxis(noise, -1, 1).copy()),
        num_inference_steps=steps,
        output_type="latent",
        **sizes,
        **options,
    ).frames
    theirs = np.moveaxis(np.asarray(theirs)[0], 0, -1)
    assert np.abs(theirs).max() > 0.5
    assert np.abs(ours - theirs).max() < 1e-3


def test_the_image_reaches_the_film_in_both_ways(monkeypatch, model):
    one, other = picture(32, 48), picture(32, 48, seed=1)
    first = denoised(monkeypatch, model, image=one)
    assert np.abs(first - denoised(monkeypatch, model, image=other)).max() > 1e-2
    assert np.abs(first - denoised(monkeypatch, model, image=one)).max() < 1e-6
    seen, whole = [], type(model)._image_conditions

    def mixed(self, request):
        conditions = whole(self, request)
        seen.append(conditions)
        return conditions | {name: seen[0][name] for name in kept}

    monkeypatch.setattr(type(model), "_image_conditions", mixed)
    for kept in ([], ["image_context"], ["image_channels"]):
        film = denoised(monkeypatch, model, image=other if kept else one)
        if kept:  # one of the two says the first image, the other the second
            assert np.abs(film - first).max() > 1e-3, kept
    assert seen[0]["image_context"].shape == (1, 5, 16)
    assert seen[0]["image_channels"].shape == (1, 3, 4, 6, 8)


def test_the_condition_is_the_encoded_image_and_its_mask(model):
    pixels = picture(32, 48)
    vae = model._vae
    latents = first_frame_latents(vae, pixels, 9, temporal=4)
    video = np.zeros((1, 9, 32, 48, 3), np.float32)
    video[0, 0] = pixels / np.float32(255) * 2 - 1
    whole = jax.jit(lambda params, v: nnx.merge(vae[0], params).encode(v)[0])(vae[1], video)
    config = model.source.configs["vae"]
    expected = (np.asarray(whole) - config.latents_mean) / np.asarray(config.latents_std)
    np.testing.assert_allclose(latents, expected, atol=2e-5)
    mask = np.asarray(first_frame_mask(latents, 4))
    assert mask.shape == (1, 3, 4, 6, 4) and mask[:, 0].all() and not mask[:, 1:].any()


def test_defaults_of_a_folder_without_settings(folder, tmp_path):
    for name in folder.iterdir():
        (tmp_path / name.name).symlink_to(name)
    (tmp_path / layout.SETTINGS).unlink()
    defaults = load.find(str(tmp_path)).defaults
    assert (defaults.guidance_scale, defaults.shift) == (5.0, 3.0)  # shift: its scheduler's


def test_parts_that_do_not_fit(folder, tmp_path):
    for name in folder.iterdir():
        (tmp_path / name.name).symlink_to(name)
    configs = micro_configs(image=True)
    for change, message in (
        ({"image_dim": 8}, "reads image states of 8, its image encoder writes 16"),
        ({"pos_embed_seq_len": 10}, "needs a first and a last image"),
        ({"in_channels": 8}, "has 8 channels in and 4 out; with its VAE it needs 12 in and 4"),
    ):
        (tmp_path / "transformer").unlink()
        (tmp_path / "transformer").mkdir()
        changed = dataclasses.replace(configs["transformer"], **change)
        layout.write_config(tmp_path / "transformer", "transformer", changed)
        with pytest.raises(UserError, match=message):
            load.find(str(tmp_path))
        (tmp_path / "transformer" / "config.json").unlink()
        (tmp_path / "transformer").rmdir()
        (tmp_path / "transformer").touch()


def run(capsys, *argv):
    code = main(["generate", *map(str, argv)])
    out, err = capsys.readouterr()
    return code, out.splitlines(), err


def test_the_command_and_its_recipe(folder, tmp_path, capsys):
    image = tmp_path / "first.png"
    Image.fromarray(picture(60, 40)).save(image)
    command = ["--model_id", folder, "--prompt", PROMPT, "--image", image, "--format", "gif"]
    command += ["--num_frames", "1", "--guidance_scale", "1"]
    code, out, err = run(capsys, *command, "--outdir", tmp_path / "a")
    assert (code, err) == (0, "")
    recipe = tmp_path / "a" / "a-large-red-circle-moves-left_seed0.json"
    made = json.loads(recipe.read_text())
    assert (made["height"], made["width"]) == (48, 32)  # upright as its image
    assert made["image"] == str(image)
    again = ["--from", recipe, "--format", "gif", "--outdir", tmp_path / "b"]
    assert run(capsys, *again)[0] == 0
    assert json.loads((tmp_path / "b" / recipe.name).read_text()) == made
    Image.fromarray(picture(60, 40, seed=1)).save(image)
    code, _, err = run(capsys, *again, "--overwrite")
    assert code == 2 and "first.png' is not the image that film was made of; give --image" in err
    image.unlink()
    code, _, err = run(capsys, *again, "--overwrite")
    assert code == 2 and "cannot read image" in err
    recipe.write_text(json.dumps(made | {"image": None}))
    code, _, err = run(capsys, *again, "--overwrite")
    assert code == 2 and "was handed over in Python; give --image FILE" in err


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "is an image-to-video model; give the image that films start from: --image FILE"),
        ("absent", "cannot read image"),
        ("damaged", "is not an image that Pillow reads"),
    ],
)
def test_bad_images_are_refused_before_anything_is_loaded(
    folder, tmp_path, capsys, monkeypatch, text, message
):
    monkeypatch.setattr(ModelSource, "load", lambda *_, **__: pytest.fail("weights were loaded"))
    (tmp_path / "damaged").write_text("no image")
    image = [] if text is None else ["--image", tmp_path / text]
    code, out, err = run(
        capsys, "--model_id", folder, "--prompt", PROMPT, "--outdir", tmp_path / "out", *image
    )
    assert (code, out, err.count("\n")) == (2, [], 1) and message in err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["damaged"]
