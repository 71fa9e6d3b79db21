"""The whole transformer against diffusers, float32, random weights: 1e-4 of the output's scale."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from dit_oracle import SMALL, jax_video, pair, relative_error, run, torch_video

CASES = {
    "clip times": {},
    "frame times": {"frames": True},
    "fps": {"inject_sample_info": True},
    "fps, frame times": {"inject_sample_info": True, "frames": True},
    "causal": {"num_frame_per_block": 2, "frames": True},
    "plain norm2": {"cross_attn_norm": False, "eps": 1e-3},
    "image": {"image_dim": 12, "added_kv_proj_dim": 40},
    "two images": {"image_dim": 12, "added_kv_proj_dim": 40, "pos_embed_seq_len": 10},
    "patch time": {"patch_size": (2, 2, 1), "out_channels": None},
}


def inputs(config, *, frames: bool, seed: int = 0) -> dict:
    """A batch of two: latents, times, text and what else the config asks for."""
    rng = np.random.default_rng(seed)

    def draw(*shape):
        return jnp.asarray(rng.standard_normal(shape), jnp.float32)

    times = rng.uniform(0, 1000, (2, 4 if frames else 1))
    tokens = config.pos_embed_seq_len or 5
    return {
        "latents": draw(2, 4, 6, 10, config.in_channels),
        "timestep": jnp.asarray(times, jnp.float32),
        "context": draw(2, 512, config.text_dim),
        "fps": jnp.asarray([16, 24]) if config.inject_sample_info else None,
        "image_context": draw(2, tokens, config.image_dim) if config.image_dim else None,
    }


def run_torch(model, batch) -> torch.Tensor:
    """diffusers' forward per sample: its order of fps and frames is right for one sample only."""
    outputs = []
    for b in range(batch["latents"].shape[0]):
        timestep = torch.tensor(np.asarray(batch["timestep"][b : b + 1]))
        frames = timestep.shape[1] > 1
        image = batch["image_context"]
        if image is not None:
            image = torch.tensor(np.asarray(image[b : b + 1]))
            if model.config.pos_embed_seq_len is not None:  # it takes two rows of half the tokens
                image = image.reshape(2, -1, image.shape[-1])
        outputs.append(
            model(
                torch_video(batch["latents"][b : b + 1]),
                timestep if frames else timestep[:, 0],
                torch.tensor(np.asarray(batch["context"][b : b + 1])),
                encoder_hidden_states_image=image,
                enable_diffusion_forcing=frames,
                fps=None if batch["fps"] is None else [int(batch["fps"][b] != 16)],
            ).sample
        )
    return torch.cat(outputs)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("case", CASES)
def test_model_equals_diffusers(case):
    changes = dict(CASES[case])
    frames = changes.pop("frames", False)
    config = dataclasses.replace(SMALL, **changes)
    theirs, ours = pair(config)
    batch = inputs(config, frames=frames)
    with torch.no_grad():
        expected = run_torch(theirs, batch)
    assert relative_error(run(ours, **batch), jax_video(expected)) < 1e-4
