"""Training the video VAE on ToyFilm's pixels."""

import dataclasses
import pathlib

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh
from tqdm import tqdm

from skyreels_jax.checkpoint import restore_params
from skyreels_jax.cli.recipes import clips
from skyreels_jax.core.config import from_dict
from skyreels_jax.core.types import Params
from skyreels_jax.data.loader import RandomCrop, pipeline
from skyreels_jax.models.layout import abstract_model, save_component
from skyreels_jax.models.vae.config import VAEConfig
from skyreels_jax.models.vae.modeling import AutoencoderKLWan
from skyreels_jax.objectives.vae import VAEObjective
from skyreels_jax.parallel.rules import WHOLE, Rules
from skyreels_jax.training.config import TrainConfig
from skyreels_jax.training.loop import Loader

LOGVAR_START = -5.0  # a posterior of unit variance would drown the first latents in noise
MEASURED = 256  # clips over which the latents' statistics are taken
BATCH = 8
READ = ("folder", "split", "clips", "num_frames", "captions", "rates", "fps", "balance")
READ += ("turns", "faults")


class VAERecipe:
    """Kind "vae": `model` is a `VAEConfig`, `objective` a `VAEObjective`, batches are {"video"}."""

    def resolve(self, config: TrainConfig) -> TrainConfig:
        return dataclasses.replace(
            config,
            model=from_dict(VAEConfig, config.model),
            objective=from_dict(VAEObjective, config.objective),
        )

    def make(
        self, config: TrainConfig, rngs: nnx.Rngs, *, mesh: Mesh | None = None
    ) -> AutoencoderKLWan:
        del mesh  # it needs to know nothing of it
        model = AutoencoderKLWan(config.model, rngs=rngs)
        bias = model.quant_conv.bias
        bias[...] = bias[...].at[config.model.z_dim :].set(LOGVAR_START)
        return model

    def rules(self, config: TrainConfig) -> Rules:
        return WHOLE

    def loader(self, config: TrainConfig) -> Loader:
        config.data.check_read("vae", READ)
        source = clips.source(config.data)
        groups = [(group.share, group.indices) for group in clips.groups(config.data)]

        def open_stage(stage, index, rows):
            crop = RandomCrop(frames=stage.frames, size=stage.size)
            options = {"batch": stage.batch, "seed": config.seed + index, "groups": groups}
            return pipeline(source, crop, rows=rows, **options)

        return open_stage

    def flops(self, config: TrainConfig, params: Params) -> None:
        return None

    def export(self, config: TrainConfig, folder: pathlib.Path, dtype: str) -> None:
        """Writes `folder`/vae, latents' statistics included; prints the PSNR on held-out clips."""
        like = abstract_model("vae", config.model)[1]
        params = restore_params(config.out, like)
        model = self.make(config, nnx.Rngs(0))
        nnx.update(model, params)
        mean, std = latent_statistics(model, clips.source(config.data))
        trained = dataclasses.replace(config.model, latents_mean=mean, latents_std=std)
        save_component(folder / "vae", "vae", trained, params, dtype=jnp.dtype(dtype))
        held_out = clips.source(config.data, split="held_out")
        print(f"PSNR on {len(held_out)} held-out clips: {held_out_psnr(model, held_out):.2f} dB")


def latent_statistics(
    model: AutoencoderKLWan, source
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Returns each latent channel's mean and standard deviation over clips from all of `source`."""
    total, square, count = 0.0, 0.0, 0
    encode = nnx.jit(lambda model, video: model.encode(clips.to_float(video))[0])
    for batch in _batches(source, MEASURED, "latent statistics"):
        latents = np.asarray(encode(model, batch), np.float64)
        total = total + latents.sum(axis=(0, 1, 2, 3))
        square = square + np.square(latents).sum(axis=(0, 1, 2, 3))
        count += latents[..., 0].size
    mean = total / count
    std = np.sqrt(square / count - np.square(mean))
    return tuple(mean.tolist()), tuple(std.tolist())


def held_out_psnr(model: AutoencoderKLWan, source) -> float:
    """Returns the mean PSNR in dB, over `source`, of 8-bit reconstructions from the mean latent."""

    @nnx.jit
    def errors(model, video):
        made = model.decode(model.encode(clips.to_float(video))[0])
        made = jnp.round((made + 1) * 127.5)
        return jnp.mean(jnp.square(made - video.astype(jnp.float32)), axis=(1, 2, 3, 4))

    found = [np.asarray(errors(model, b)) for b in _batches(source, len(source), "held-out clips")]
    return float(np.mean(10 * np.log10(255.0**2 / np.maximum(np.concatenate(found), 1e-6))))


def _batches(source, count: int, title: str):
    picks = np.linspace(0, len(source) - 1, max(min(count, len(source)) // BATCH, 1) * BATCH)
    for row in tqdm(picks.astype(int).reshape(-1, BATCH), desc=title):
        yield np.stack([source[int(i)]["video"] for i in row])
