"""The same folder and the same noise give the same film here and in PyTorch diffusers."""

import pathlib

import numpy as np
import pytest

import skyreels_jax
from skyreels_jax.pipelines.generate import initial_noise

TINY = pathlib.Path(skyreels_jax.__file__).parent / "assets" / "tiny"
PROMPTS = [
    "A red ring glides slowly to the right in a meadow, close-up.",
    "A close-up of a blue square that moves quickly to the left in a desert at dusk.",
    "A mid shot of a yellow triangle that bounces in snow at night. The camera zooms in.",
]


def torch_film(folder, prompt, noise, *, steps, guidance_scale, negative_prompt) -> np.ndarray:
    """Returns diffusers' film, uint8 [T, H, W, 3], from noise [1, T, H, W, C]."""
    import torch
    from diffusers import SkyReelsV2Pipeline

    pipe = SkyReelsV2Pipeline.from_pretrained(folder, dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    frames = pipe(
        prompt,
        negative_prompt=negative_prompt,
        latents=torch.from_numpy(np.moveaxis(noise, -1, 1).copy()),
        height=noise.shape[2] * 8,
        width=noise.shape[3] * 8,
        num_frames=4 * noise.shape[1] - 3,
        num_inference_steps=steps,
        guidance_scale=guidance_scale,
        output_type="np",
    ).frames[0]
    return np.round(frames * 255).astype(np.uint8)


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    error = np.mean(np.square(a.astype(float) - b))
    return 10 * np.log10(255**2 / max(error, 1e-9))


def compare(
    folder, prompt, *, latents_shape, steps, guidance_scale=4.0, negative_prompt=""
) -> float:
    """Returns the PSNR in dB between our film and diffusers' from the same noise."""
    model = skyreels_jax.load(str(folder), dtype="float32")
    noise = np.asarray(initial_noise([11], latents_shape))
    options = {"guidance_scale": guidance_scale, "negative_prompt": negative_prompt}
    ours = model.generate(
        prompt,
        latents=noise,
        num_frames=4 * latents_shape[0] - 3,
        height=latents_shape[1] * 8,
        width=latents_shape[2] * 8,
        inference_steps=steps,
        **options,
    ).frames
    theirs = torch_film(folder, prompt, noise, steps=steps, **options)
    assert ours.shape == theirs.shape
    assert ours.std() > 5  # two empty films would agree too
    return psnr(ours, theirs)


@pytest.mark.parametrize(
    ("options", "shape"),
    [
        ({}, (3, 4, 6, 4)),
        ({"negative_prompt": "a dark  night &amp; rain", "guidance_scale": 7.0}, (2, 4, 4, 4)),
        ({"guidance_scale": 1.0}, (1, 4, 4, 4)),
    ],
    ids=["guided", "negative", "unguided"],
)
def test_random_weights(micro_folder, options, shape):
    assert compare(micro_folder, PROMPTS[0], latents_shape=shape, steps=4, **options) > 40


@pytest.mark.parametrize("prompt", PROMPTS)
def test_whole_films_of_the_miniature(prompt):
    assert compare(TINY, prompt, latents_shape=(9, 8, 8, 16), steps=25) > 40


def test_diffusers_opens_the_miniature_as_a_forcing_model():
    from diffusers import DiffusionPipeline, SkyReelsV2DiffusionForcingPipeline

    assert type(DiffusionPipeline.from_pretrained(TINY)) is SkyReelsV2DiffusionForcingPipeline
