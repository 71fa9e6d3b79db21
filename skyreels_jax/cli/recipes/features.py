"""Training a transformer by itself on feature sets: latents and text states made ahead.

As SkyReels-V2 is trained: VAE and text encoder are frozen, so what they make is made once
(`skyreels-jax data encode`), and training holds neither.
"""

import dataclasses
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from skyreels_jax.cli.recipes.checks import check_tokens, mesh_shape
from skyreels_jax.core.config import to_dict
from skyreels_jax.core.errors import UserError
from skyreels_jax.data import buckets
from skyreels_jax.data.features.batches import ToldClip, WithEmptyCaption, in_turns
from skyreels_jax.data.features.draws import Draw, described, draws
from skyreels_jax.data.features.sets import FeatureSets, read_features
from skyreels_jax.data.in_order import InOrder
from skyreels_jax.data.loader import batches
from skyreels_jax.models.transfer import write_diffusers
from skyreels_jax.objectives.diffusion_forcing import DiffusionForcing
from skyreels_jax.parallel.mesh import BATCH
from skyreels_jax.pipelines.convert import run_model, write_trained
from skyreels_jax.pipelines.encoders import encoders_here
from skyreels_jax.pipelines.generate import MAX_TOKENS, TOKEN_BUCKET
from skyreels_jax.pipelines.run import run_encoders
from skyreels_jax.training.config import StageConfig, TrainConfig
from skyreels_jax.training.loop import Loader

READ = ("features", "images", "fps", "balance", "multiple")


def folders(config: TrainConfig) -> list[str]:
    """Returns the feature sets of a run."""
    return [part.strip() for part in config.data.features.split(",")]


def with_multiple(config: TrainConfig, saved: Mapping[str, Any] | None = None) -> TrainConfig:
    """Returns `config` with the `data.multiple` of its run: what it states, or else what the run
    had when it was saved, or else what the devices need.

    saved: the resolved config of the checkpoint that the run goes on from. From before there was
    the field: its batches were as its devices needed, and the loader refuses others.
    """
    if config.data.multiple:
        return config
    kept = saved["data"].get("multiple", 0) if saved is not None else 0
    multiple = kept or config.accumulate * _sharing(mesh_shape(config))
    return dataclasses.replace(config, data=dataclasses.replace(config.data, multiple=multiple))


def loader(config: TrainConfig) -> Loader:
    """Returns what opens a stage's batches; every stage is checked now.

    Raises `UserError` for sets that are missing, unfinished, stale or of another model, for stages
    that nothing is there for, and for batches that the devices cannot share.
    """
    config.data.check_read("text_to_video with data.features", READ)
    config = with_multiple(config)
    sets = read_features(folders(config))
    _check_model(config, sets)
    encoders_here(sets.made)  # refuses stale ones; training needs no encoder
    shape = mesh_shape(config)
    drawn = [_drawn(config, stage, sets, shape) for stage in config.stages]
    _check_shared(config, [draw for stage in drawn for draw in stage], shape)
    size = min(-(-(sets.tokens + 1) // TOKEN_BUCKET) * TOKEN_BUCKET, MAX_TOKENS)
    lengths = {"size": size, "max_length": MAX_TOKENS}
    told = ToldClip(tells_fps=config.model.transformer.inject_sample_info, **lengths)
    with_empty = WithEmptyCaption(null=sets.null, **lengths)

    def open_stage(stage, index, rows):
        seed = config.seed + index
        datasets = [
            batches(
                sets.tables[draw.bucket],
                told,
                batch=draw.batch,
                seed=seed + 1000 * number,  # else buckets would be alike shuffled
                groups=draw.groups,
                rows=rows,
            ).map(with_empty)
            for number, draw in enumerate(drawn[index])
        ]
        shares = [draw.share for draw in drawn[index]]
        return InOrder(
            batches=in_turns(datasets, shares, steps=stage.steps, seed=seed),
            order={str(d.bucket): described(d, sets.tables[d.bucket]) for d in drawn[index]},
            needs=f"the features as they were and data.multiple = {config.data.multiple}",
        )

    return open_stage


def _drawn(
    config: TrainConfig, stage: StageConfig, sets: FeatureSets, shape: Mapping[str, int]
) -> list[Draw]:
    there = ", ".join(map(str, sets.tables))
    if not (stage.resolution and stage.frames) or stage.size:
        raise UserError(
            "stages on data.features have a resolution and the frames of the longest clips, and no "
            f"size; there are clips of {there} (frames x height x width)"
        )
    among = buckets.buckets(stage.resolution, stage.frames)
    block = config.model.transformer.num_frame_per_block
    found = {
        bucket: sets.tables[bucket]
        for bucket in among
        if bucket in sets.tables and bucket.latents[0] % block == 0
    }
    if not found:
        whole = f" and of whole blocks of {block} latent frames" if block > 1 else ""
        raise UserError(
            f"no features are of {stage.resolution} and up to {stage.frames} frames{whole}; there "
            f"are clips of {there} (frames x height x width)"
        )
    images = config.data.images
    if images and isinstance(config.objective, DiffusionForcing):
        raise UserError(
            "data.images: an image is a single latent frame, and diffusion forcing needs several"
        )
    for bucket in found:
        check_tokens(bucket.tokens // bucket.latents[0], shape["context"], of=str(bucket))
    data = config.data

    def count(bucket: buckets.Bucket) -> int:
        options = {"batch": stage.batch, "largest": among[-1], "multiple": data.multiple}
        return buckets.clips(bucket, **options)

    return draws(found, count, images=images, fps=data.fps, balance=data.balance)


def _check_shared(config: TrainConfig, drawn: Sequence[Draw], shape: Mapping[str, int]) -> None:
    """Raises `UserError` where the devices cannot share the batches of a bucket evenly."""
    devices, parts = _sharing(shape), config.accumulate
    for draw in drawn:
        if draw.batch % (devices * parts):
            most = math.gcd(*(other.batch for other in drawn)) // parts
            micro = f" in {parts} micro-batches" if parts > 1 else ""
            raise UserError(
                f"mesh: data x fsdp = {devices} devices cannot share batches of {draw.batch} clips "
                f"of {draw.bucket}{micro} (multiples of data.multiple = {config.data.multiple}, "
                f"which a run keeps); legal: divisors of {most}"
            )


def _sharing(shape: Mapping[str, int]) -> int:
    """Returns how many devices share the clips of a batch."""
    return math.prod(shape[axis] for axis in BATCH)


def _check_model(config: TrainConfig, sets: FeatureSets) -> None:
    transformer = config.model.transformer
    if transformer.image_dim is not None:
        raise UserError("features hold no images to start from: leave out transformer.image_dim")
    have = {"in_channels": sets.made.channels, "text_dim": sets.made.text_dim}
    for name, value in have.items():
        if getattr(transformer, name) != value:
            raise UserError(
                f"transformer.{name} is {getattr(transformer, name)}; the features in "
                f"{config.data.features} were made with {value}"
            )


def export(config: TrainConfig, folder: pathlib.Path, dtype: str) -> None:
    """Writes a whole pipeline: the trained transformer, and what else is needed copied from the
    model that made the features; where that cannot be had any more, the transformer alone.
    """
    run, said = pathlib.Path(config.out), to_dict(config)
    try:
        run_encoders(said)
    except UserError as error:
        print(f"the transformer alone is exported: {error}")
        return write_trained(run, folder, dtype=dtype, config=said)
    return write_diffusers(run_model(run, dtype=dtype, config=said), folder)
