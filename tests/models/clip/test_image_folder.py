"""Image-to-video folders: recognised, converted both ways bit by bit, released forms, bad ones."""

import dataclasses
import json
import pathlib
import shutil

import numpy as np
import pytest
from transformers import CLIPImageProcessorPil

from skyreels_jax.core.errors import UserError
from skyreels_jax.core.tree import named_leaves
from skyreels_jax.models import layout
from skyreels_jax.models.clip.config import VIT_H_14, CLIPVisionConfig
from skyreels_jax.models.clip.preprocess import CLIPImageConfig
from skyreels_jax.models.layout import abstract_model, load_component, read_folder
from skyreels_jax.pipelines.convert import convert
from skyreels_jax.testing.micro import micro_configs, write_micro_model
from skyreels_jax.weights.reader import open_source

# The official form knows image states of 1280 only.
ENCODER = CLIPVisionConfig(
    architectures=("CLIPVisionModelWithProjection",),
    hidden_size=1280,
    intermediate_size=8,
    projection_dim=4,
    num_hidden_layers=1,
    num_attention_heads=16,
    image_size=28,
    patch_size=14,
    hidden_act="gelu",
)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    transformer = dataclasses.replace(micro_configs(image=True)["transformer"], image_dim=1280)
    folder = tmp_path_factory.mktemp("image") / "model"
    return write_micro_model(folder, image=True, image_encoder=ENCODER, transformer=transformer)


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return write_micro_model(tmp_path_factory.mktemp("plain") / "model", image=True)


@pytest.fixture
def small(plain, tmp_path):
    """A copy of a micro model, to be damaged."""
    return pathlib.Path(shutil.copytree(plain, tmp_path / "small"))


def edit(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_recognised(saved):
    folder = read_folder(saved)
    assert folder.components["image_encoder"].config == ENCODER
    assert folder.image_processor == CLIPImageConfig(shortest_edge=28, crop_size=28)
    index = json.loads((saved / "model_index.json").read_text())
    assert index["_class_name"] == "SkyReelsV2ImageToVideoPipeline"
    assert index["image_encoder"] == ["transformers", "CLIPVisionModelWithProjection"]
    theirs = CLIPImageProcessorPil.from_pretrained(saved / "image_processor")
    assert theirs.size["shortest_edge"] == 28


def test_there_and_back_is_bit_exact(saved, tmp_path):
    convert(saved, tmp_path / "official", form="official")
    official = read_folder(tmp_path / "official")
    assert {name: part.config for name, part in official.components.items()} == {
        name: part.config for name, part in read_folder(saved).components.items()
    }
    names = set(open_source(official.components["image_encoder"].weights).keys())
    assert {"visual.transformer.0.attn.to_qkv.weight", "visual.head"} <= names
    convert(tmp_path / "official", tmp_path / "back", form="diffusers")
    back = read_folder(tmp_path / "back")
    assert (back.pipeline, back.scheduler, back.image_processor) == (
        "SkyReelsV2ImageToVideoPipeline",
        read_folder(saved).scheduler,
        CLIPImageConfig(shortest_edge=28, crop_size=28),
    )
    for name in back.components:
        first, second = (open_source(folder / name) for folder in (saved, tmp_path / "back"))
        assert set(first.keys()) == set(second.keys())
        for key in first.keys():  # noqa: SIM118
            np.testing.assert_array_equal(first.read(key), second.read(key), err_msg=key)
    for file in (
        "model_index.json",
        "image_encoder/config.json",
        "image_processor/preprocessor_config.json",
    ):
        assert json.loads((saved / file).read_text()) == json.loads(
            (tmp_path / "back" / file).read_text()
        )


def test_an_official_folder_without_our_file_is_the_released_one(saved, tmp_path):
    convert(saved, tmp_path / "official", form="official")
    (tmp_path / "official" / layout.EXTRA).unlink()
    folder = read_folder(tmp_path / "official")
    assert folder.components["image_encoder"].config == VIT_H_14
    assert folder.image_processor == CLIPImageConfig()
    assert folder.pipeline == "SkyReelsV2ImageToVideoPipeline"
    assert folder.scheduler["flow_shift"] == 5.0


def test_a_processor_for_image_and_text_is_read(small):
    path = small / "image_processor" / "preprocessor_config.json"
    values = json.loads(path.read_text())
    path.unlink()
    both = {"processor_class": "CLIPProcessor", "image_processor": values}
    (small / "image_processor" / "processor_config.json").write_text(json.dumps(both))
    assert read_folder(small).image_processor.crop_size == 28


def test_the_encoder_is_loaded(small):
    config = micro_configs(image=True)["image_encoder"]
    encoder = load_component(read_folder(small).components["image_encoder"], dtype="float32")
    assert encoder.config == config
    shapes = {p: v.shape for p, v in named_leaves(abstract_model("image_encoder", config)[1])}
    assert shapes["blocks/attn/qkv/kernel"] == (3, 3, 16, 16)


DAMAGE = {
    "no encoder": (lambda m: shutil.rmtree(m / "image_encoder"), "missing image_encoder/config"),
    "no processor": (lambda m: shutil.rmtree(m / "image_processor"), "missing image_processor"),
    "empty processor": (
        lambda m: (m / "image_processor/preprocessor_config.json").unlink(),
        "processor_config.json: not readable as json",
    ),
    "other processor": (
        lambda m: edit(
            m / "image_processor/preprocessor_config.json", image_processor_type="ViTImageProcessor"
        ),
        "'ViTImageProcessor' is not supported; legal: CLIPImageProcessor",
    ),
    "other encoder": (
        lambda m: edit(m / "image_encoder/config.json", model_type="siglip_vision_model"),
        "model_type = 'siglip_vision_model'; expected 'clip_vision_model'",
    ),
    "text model inside": (
        lambda m: edit(m / "transformer/config.json", image_dim=None, added_kv_proj_dim=None),
        "but the transformer has image_dim = None",
    ),
    "no official form": (lambda m: None, "no place for image_dim=16"),
}


@pytest.mark.parametrize(("damage", "message"), DAMAGE.values(), ids=DAMAGE)
def test_bad_folders_are_refused_and_nothing_is_written(small, tmp_path, damage, message):
    damage(small)
    with pytest.raises(UserError, match=message):
        convert(small, tmp_path / "out", form="official")
    assert {p.name for p in tmp_path.iterdir()} == {"small"}
