"""Image preprocessing is transformers' CLIPImageProcessor, bit for bit."""

import json

import numpy as np
import pytest
from PIL import Image
from transformers import CLIPImageProcessorPil

from skyreels_jax.core.errors import UserError
from skyreels_jax.models.clip.preprocess import CLIPImageConfig, from_json, preprocess, to_json

SMALL = CLIPImageConfig(
    shortest_edge=30, crop_size=28, image_mean=(0.5, 0.4, 0.3), image_std=(0.2, 0.3, 0.4)
)
TRANSFORMERS_4 = {
    "crop_size": 224, "do_center_crop": True, "do_normalize": True, "do_resize": True,
    "feature_extractor_type": "CLIPFeatureExtractor", "resample": 3, "size": 224,
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
}  # fmt: skip


@pytest.mark.parametrize(
    ("size", "config"),
    [
        ((224, 224), CLIPImageConfig()),
        ((97, 161), CLIPImageConfig()),
        ((330, 251), CLIPImageConfig()),
        ((50, 31), SMALL),
        ((9, 200), SMALL),
    ],
)
def test_equal_to_transformers(size, config):
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    processor = CLIPImageProcessorPil(**to_json(config))
    expected = processor(Image.fromarray(pixels), return_tensors="np")["pixel_values"][0]
    ours = preprocess(pixels, config)
    assert ours.dtype == np.float32
    np.testing.assert_array_equal(ours, expected.transpose(1, 2, 0))


def test_configurations_of_both_generations():
    assert from_json(TRANSFORMERS_4) == CLIPImageConfig()
    theirs = json.loads(json.dumps(CLIPImageProcessorPil().to_dict()))
    assert from_json(theirs) == CLIPImageConfig()
    ours = to_json(CLIPImageConfig())
    assert ours == {name: theirs[name] for name in ours}
    assert from_json(to_json(SMALL)) == SMALL


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"feature_extractor_type": "ViTFeatureExtractor"}, "'ViTFeatureExtractor' is not supp"),
        ({"do_center_crop": False}, "do_center_crop is not supported"),
        ({"resample": 2}, "resample = 2 is not supported; only bicubic"),
        ({"size": {"height": 224, "width": 224}}, "size .* legal: shortest_edge = N"),
        ({"crop_size": {"height": 224, "width": 220}}, "crop_size .* legal: height = width = N"),
        ({"crop_size": 300}, "crop_size must be 1 to shortest_edge = 224"),
        ({"image_mean": [0.5]}, "image_mean"),
    ],
)
def test_other_processors_are_refused(change, message):
    with pytest.raises(UserError, match=message):
        from_json(TRANSFORMERS_4 | change)
