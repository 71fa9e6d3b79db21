"""Training transformer and text encoder together on ToyFilm's latents, or a transformer by itself
on features of other videos.
"""

import dataclasses
import functools
import pathlib
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from skyreels_jax.cli.recipes import clips, features
from skyreels_jax.cli.recipes.checks import (
    check_blocks,
    check_text,
    check_tokens,
    check_windows,
    mesh_shape,
)
from skyreels_jax.cli.recipes.flops import step_flops, train_passes
from skyreels_jax.core.config import fields_of, from_dict, suggest, to_dict
from skyreels_jax.core.errors import UserError
from skyreels_jax.core.types import Batch, Params
from skyreels_jax.data import latents
from skyreels_jax.data.loader import CutLatents, Labelled, pipeline
from skyreels_jax.data.toy_film.tokenizer import build_tokenizer
from skyreels_jax.data.toy_film.world import SIZE
from skyreels_jax.kernels.attention import Attention, attention
from skyreels_jax.models import layout
from skyreels_jax.models.dit.config import DiTConfig
from skyreels_jax.models.dit.modeling import SkyReelsV2Transformer3D
from skyreels_jax.models.dit.sharding import sharding_rules
from skyreels_jax.models.text_to_video import TextToVideo
from skyreels_jax.models.transfer import write_diffusers
from skyreels_jax.models.umt5.config import UMT5Config
from skyreels_jax.models.umt5.modeling import UMT5Encoder
from skyreels_jax.models.umt5.sharding import SHARDING_RULES
from skyreels_jax.models.umt5.text import tokenize
from skyreels_jax.objectives.diffusion_forcing import DiffusionForcing
from skyreels_jax.objectives.flow_matching import FlowMatching
from skyreels_jax.parallel.context import ContextAttention
from skyreels_jax.parallel.rules import Rules, within
from skyreels_jax.pipelines.convert import run_model
from skyreels_jax.training.config import DataConfig, TrainConfig
from skyreels_jax.training.loop import Loader
from skyreels_jax.training.meter import Flops

READ = ("folder", "split", "clips", "num_frames", "captions", "rates", "fps", "balance")
READ += ("turns", "faults", "middle", "vae", "latents", "encode_batch")
# What decides which clips a latents store holds.
CONTENTS = ("split", "clips", "num_frames", "captions", "turns", "faults", "rates")
OBJECTIVES = {objective.name: objective for objective in (FlowMatching, DiffusionForcing)}


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextToVideoConfig:
    """The trained parts; the VAE is read from `data.vae`. text_encoder: None: the transformer is
    trained by itself, on `data.features`.
    """

    transformer: DiTConfig
    text_encoder: UMT5Config | None = None


class TextToVideoRecipe:
    """Kind "text_to_video": `model` is a `TextToVideoConfig`, `objective` one of `OBJECTIVES`.

    An objective without a "name" is flow matching.
    """

    def resolve(self, config: TrainConfig) -> TrainConfig:
        model = from_dict(TextToVideoConfig, config.model)
        if model.text_encoder is not None:
            vocabulary = len(build_tokenizer())
            stated = dict(config.model["text_encoder"]).get("vocab_size", vocabulary)
            if stated != vocabulary:
                raise UserError(
                    f"text_encoder.vocab_size is {stated}; the tokenizer has {vocabulary} words"
                )
            text_encoder = dataclasses.replace(model.text_encoder, vocab_size=vocabulary)
            model = dataclasses.replace(model, text_encoder=text_encoder)
        name = fields_of("objective", config.objective).get("name", FlowMatching.name)
        if name not in OBJECTIVES:
            raise UserError(f"objective.name {name!r} is not known{suggest(str(name), OBJECTIVES)}")
        return dataclasses.replace(
            config, model=model, objective=from_dict(OBJECTIVES[name], config.objective)
        )

    def make(self, config: TrainConfig, rngs: nnx.Rngs, *, mesh: Mesh | None = None) -> TextToVideo:
        check_text(config)
        check_blocks(config)
        attend = attention
        if mesh is not None:
            attend = ContextAttention(
                mesh=mesh,
                kind=config.mesh.attention,
                attention=Attention(mesh.devices.flat[0].platform),
            )
        transformer = SkyReelsV2Transformer3D(
            config.model.transformer, attention=attend, remat=config.remat, rngs=rngs
        )
        if config.model.text_encoder is None:
            return TextToVideo(transformer, None)
        text_encoder = UMT5Encoder(config.model.text_encoder, remat=config.remat, rngs=rngs)
        return TextToVideo(transformer, text_encoder)

    def rules(self, config: TrainConfig) -> Rules:
        rules = within("transformer", sharding_rules(config.model.transformer))
        if config.model.text_encoder is None:
            return rules
        return (*rules, *within("text_encoder", SHARDING_RULES))

    def loader(self, config: TrainConfig) -> Loader:
        if config.data.features:
            return features.loader(config)
        config.data.check_read("text_to_video", READ)
        check_windows(config)
        _check_pictures(config)
        groups = [(group.share, group.indices) for group in clips.groups(config.data)]
        store = prepare_latents(config.data)
        shape = store[0]["latents"].shape
        factor = (config.data.num_frames - 1) // max(shape[0] - 1, 1)  # frames of a latent
        source, block = store, getattr(config.objective, "causal_block_size", 1)
        if config.data.turns:
            turns = -(-clips.turns(config.data) // factor)
            source = Labelled(source=source, labels={"turn": turns})
        if config.model.transformer.inject_sample_info:
            source = Labelled(source=source, labels={"fps": clips.rates(config.data)})
        if shape[-1] != config.model.transformer.in_channels:
            raise UserError(
                f"the VAE's latents have {shape[-1]} channels, "
                f"transformer.in_channels is {config.model.transformer.in_channels}"
            )

        def open_stage(stage, index, rows):
            length = 1 + (stage.frames - 1) // factor if stage.frames else 0
            middle = config.data.middle
            cut = CutLatents(store.null_cond, length=length, middle=middle, block=block)
            options = {"batch": stage.batch, "seed": config.seed + index, "groups": groups}
            return pipeline(source, cut, rows=rows, **options)

        return open_stage

    def flops(self, config: TrainConfig, params: Params) -> Flops:
        passes = train_passes(config, params)

        def of(batch: Batch) -> int:
            cond, films = batch["cond"], batch["latents"].shape
            text = cond["input_ids"] if "input_ids" in cond else cond["context_weight"]
            return step_flops(config, passes, films, tokens=text.shape[-1])

        return of

    def export(self, config: TrainConfig, folder: pathlib.Path, dtype: str) -> None:
        """Writes a whole pipeline into `folder`; its VAE is that of `data.vae`, or see
        `features.export`.
        """
        if config.data.features:
            return features.export(config, folder, dtype)
        run = pathlib.Path(config.out)
        return write_diffusers(run_model(run, dtype=dtype, config=to_dict(config)), folder)


def prepare_latents(data: DataConfig) -> latents.LatentStore:
    """Returns the latents store of `data`, after encoding what it lacks.

    Raises `UserError` for a store made with another VAE, data set or tokenizer, when there is no
    VAE yet, and when no folder for the store is named.
    """
    from skyreels_jax.data.toy_film.toy_film_dataset_builder import Builder

    if not data.latents:
        raise UserError("data.latents: name the folder of the latents store")
    model = load_vae(vae_folder(data))
    tokenizer = build_tokenizer()
    contents = {name: value for name, value in to_dict(data).items() if name in CONTENTS}
    settings = {
        "data": contents | {"version": str(Builder.VERSION)},
        "vae": to_dict(model.config),
        "vocabulary": sorted(tokenizer.get_vocab()),
    }
    weights = nnx.to_pure_dict(nnx.state(model, nnx.Param))
    expected = latents.fingerprint(weights, settings)
    folder = pathlib.Path(data.latents)
    manifest = latents.read_manifest(folder)
    if manifest is None or manifest["done"] != manifest["clips"]:
        texts = clips.source(data, pixels=False)
        captions = encode_captions(tokenizer, [texts[i]["sentences"] for i in range(len(texts))])
        latents.build(
            folder,
            clips.source(data),
            functools.partial(_encode, nnx.jit(_normalised), model),
            captions,
            encode_null(tokenizer, captions["input_ids"].shape[-1]),
            expected=expected,
            batch=data.encode_batch,
        )
    return latents.LatentStore(folder, expected=expected)


def vae_folder(data: DataConfig) -> pathlib.Path:
    """Returns `data.vae`; raises `UserError` unless it is a diffusers component folder."""
    folder = pathlib.Path(data.vae)
    if not (folder / "config.json").is_file():
        raise UserError(
            f"data.vae: {folder} is no diffusers VAE folder; train configs/toy/vae.py first"
        )
    return folder


def _check_pictures(config: TrainConfig) -> None:
    """Raises `UserError` where a mesh cannot share the tokens of ToyFilm's pictures."""
    factor = layout.read_component(vae_folder(config.data), "vae").config.spatial_factor
    _, height, width = config.model.transformer.patch_size
    tokens = (SIZE // factor // height) * (SIZE // factor // width)
    check_tokens(tokens, mesh_shape(config)["context"], of=f"{SIZE}x{SIZE} pixels")


def load_vae(folder: pathlib.Path) -> Any:
    """Returns the VAE of a diffusers component folder, in float32."""
    component = layout.read_component(folder, "vae")
    return layout.load_component(component, dtype=jnp.float32)


def encode_captions(tokenizer: Any, sentences: list[list[bytes]]) -> dict[str, np.ndarray]:
    """Returns {"input_ids" [N, P, S], "length" [N, P]} of P sentences for each of N clips."""
    texts = [sentence.decode() for row in sentences for sentence in row]
    tokens = tokenize(tokenizer, texts, multiple=8)
    shape = (len(sentences), len(sentences[0]))
    return {name: value.reshape(*shape, *value.shape[1:]) for name, value in tokens.items()}


def encode_null(tokenizer: Any, size: int) -> dict[str, np.ndarray]:
    """Returns the tokens of the empty caption, padded to `size`."""
    null = tokenize(tokenizer, [""], multiple=size)
    return {"input_ids": null["input_ids"][0], "length": null["length"][0]}


def _normalised(model: Any, video: Any) -> Any:
    return model.normalize(model.encode(clips.to_float(video))[0])


def _encode(encode: Any, model: Any, video: np.ndarray) -> np.ndarray:
    return np.asarray(encode(model, video))
