"""Long films here and in diffusers: the same weights and noise give the same frames.

diffusers 0.42.1 carries latents; the official code decodes and encodes them, which no package on
PyPI does. Its noise comes from one generator, so ours is put in its place, window by window.
"""

import itertools
import sys

import numpy as np
import pytest
import torch
from diffusers import SkyReelsV2DiffusionForcingPipeline as TheirPipeline
from forcing_oracle import Scheduler

from skyreels_jax.pipelines.generate import initial_noise

PROMPT, NEGATIVE, SEED = "A large red circle moves left.", "a dark night", 3


def their_frames(folder, monkeypatch, **options) -> np.ndarray:
    windows = itertools.count()

    def our_noise(shape, **_) -> torch.Tensor:
        batch, channels, frames, height, width = shape
        size = (frames, height, width, channels)
        noise = np.asarray(initial_noise([SEED] * batch, size, window=next(windows)))
        return torch.from_numpy(np.moveaxis(noise, -1, 1).copy())

    monkeypatch.setattr(sys.modules[TheirPipeline.__module__], "randn_tensor", our_noise)
    pipe = TheirPipeline.from_pretrained(folder, dtype=torch.float32)
    pipe.scheduler = Scheduler.from_config(pipe.scheduler.config)
    pipe.set_progress_bar_config(disable=True)
    film = pipe(
        PROMPT, negative_prompt=NEGATIVE, addnoise_condition=0, output_type="np", **options
    ).frames[0]
    assert next(windows) == 3
    return np.round(film * 255).astype(np.uint8)


@pytest.mark.parametrize(
    ("num_frames", "overlap", "ar_step"),
    [
        pytest.param(21, 9, 0, id="whole windows"),
        pytest.param(25, 5, 2, id="a short last one, staggered"),
        pytest.param(21, 9, 2, id="whole windows, staggered", marks=pytest.mark.slow),
        pytest.param(25, 5, 0, id="a short last one", marks=pytest.mark.slow),
    ],
)
def test_three_windows(forcing, forcing_folder, monkeypatch, num_frames, overlap, ar_step):
    options = {
        "num_frames": num_frames,
        "base_num_frames": 13,
        "overlap_history": overlap,
        "height": 16,
        "width": 32,
        "guidance_scale": 4.0,
        "ar_step": ar_step,
    }
    ours = forcing.generate(
        PROMPT,
        negative_prompt=NEGATIVE,
        seed=SEED,
        inference_steps=3,
        addnoise_condition=0,
        carry="latents",
        **options,
    ).frames
    theirs = their_frames(forcing_folder, monkeypatch, num_inference_steps=3, **options)
    assert ours.shape == theirs.shape == (num_frames, 16, 32, 3)
    assert np.abs(ours.astype(int) - theirs).max() <= 1  # rounding
    assert ours[13:].std() > 5
