"""A whole model folder with few, random weights that every loader takes for a real one."""

import dataclasses
import math
import pathlib
import zlib
from typing import Any

import jax
import numpy as np

from skyreels_jax.core.tree import path_name
from skyreels_jax.core.types import Params
from skyreels_jax.data.toy_film.tokenizer import build_tokenizer
from skyreels_jax.models import layout
from skyreels_jax.models.clip.config import CLIPVisionConfig
from skyreels_jax.models.clip.preprocess import CLIPImageConfig
from skyreels_jax.models.dit.config import DiTConfig
from skyreels_jax.models.umt5.config import UMT5Config
from skyreels_jax.models.vae.config import VAEConfig

TEXT_WIDTH, LATENT_CHANNELS = 32, 4


def micro_configs(*, image: bool = False, causal_block: int = 1) -> dict[str, Any]:
    """Returns the configurations of the three components; of four for an image-to-video model.

    causal_block: how many latent frames are a block of a causal model; 1: all see all.
    """
    configs = {
        "vae": VAEConfig(
            base_dim=8,
            z_dim=LATENT_CHANNELS,
            dim_mult=(1, 1, 1, 1),
            num_res_blocks=1,
            latents_mean=(0.3, -0.2, 0.1, 0.0),
            latents_std=(1.5, 0.8, 1.0, 1.2),
        ),
        "text_encoder": UMT5Config(
            vocab_size=len(build_tokenizer()),
            d_model=TEXT_WIDTH,
            d_kv=8,
            d_ff=48,
            num_layers=2,
            num_heads=4,
        ),
        "transformer": DiTConfig(
            num_attention_heads=2,
            attention_head_dim=12,
            in_channels=LATENT_CHANNELS,
            out_channels=LATENT_CHANNELS,
            text_dim=TEXT_WIDTH,
            freq_dim=32,
            ffn_dim=48,
            num_layers=2,
            num_frame_per_block=causal_block,
        ),
    }
    if image:
        configs["image_encoder"] = CLIPVisionConfig(
            architectures=("CLIPVisionModelWithProjection",),
            hidden_size=16,
            intermediate_size=24,
            projection_dim=8,
            num_hidden_layers=3,
            num_attention_heads=2,
            image_size=28,
            patch_size=14,
            hidden_act="gelu",
        )
        configs["transformer"] = dataclasses.replace(
            configs["transformer"],
            in_channels=LATENT_CHANNELS + 4 + LATENT_CHANNELS,  # noise, mask, image
            image_dim=16,
            added_kv_proj_dim=configs["transformer"].width,
        )
    return configs


def write_micro_model(
    folder: pathlib.Path,
    *,
    image: bool = False,
    forcing: bool = False,
    causal_block: int = 1,
    **replaced: Any,
) -> pathlib.Path:
    """Writes a diffusers folder that makes noisy films of 9 frames in 2 steps; returns it.

    image: an image-to-video model. forcing: a diffusion-forcing one, whose windows share 5 frames.
    causal_block: of more than 1 latent frames, of a causal one that sees 3 blocks at once.
    `replaced` are configurations of components instead of those of `micro_configs`.
    """
    configs = micro_configs(image=image, causal_block=causal_block) | replaced
    for name, config in configs.items():
        layout.save_component(folder / name, name, config, random_params(name, config))
    build_tokenizer().save_pretrained(folder / layout.TOKENIZER["diffusers"])
    if image:
        layout.write_processor(folder, CLIPImageConfig(shortest_edge=28, crop_size=28))
    layout.write_index(
        folder,
        scheduler={**layout.SCHEDULER, "flow_shift": 3.0},
        pipeline=layout.IMAGE_TO_VIDEO if image else layout.PIPELINES[forcing],
    )
    defaults = {"num_frames": 9, "height": 32, "width": 48, "fps": 12, "inference_steps": 2}
    defaults |= {"guidance_scale": 3.0, "shift": 3.0, "negative_prompt": "", "batch_size": 2}
    if forcing:
        defaults |= {"overlap_history": 5, "addnoise_condition": 20}
    if causal_block > 1:
        defaults["num_frames"] = 4 * (3 * causal_block - 1) + 1
    layout.write_json(folder / layout.SETTINGS, defaults)
    return folder


def random_params(name: str, config: Any) -> Params:
    """Returns float32 weights under which signals keep their size; each hangs on its path."""

    def draw(path: tuple, leaf: jax.ShapeDtypeStruct) -> np.ndarray:
        text = path_name(path)
        values = np.random.default_rng(zlib.crc32(text.encode())).normal(size=leaf.shape)
        kind = text.rpartition("/")[2]
        if kind == "kernel":
            stacked = leaf.ndim <= 3 or "/qkv/" in text
            fan_in = leaf.shape[-2:-1] if stacked else leaf.shape[:-1]
            values /= math.sqrt(math.prod(fan_in))
        elif kind == "scale":
            values = 1 + 0.1 * values
        elif kind != "embedding":
            values *= 0.1
        return values.astype(np.float32)

    return jax.tree_util.tree_map_with_path(draw, layout.abstract_model(name, config)[1])
