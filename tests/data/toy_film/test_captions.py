"""Captions, their inverse, and the tokenizer."""

import json

import pytest
from transformers import AutoTokenizer

from skyreels_jax.core.errors import UserError
from skyreels_jax.data.toy_film import captions, world
from skyreels_jax.data.toy_film.tokenizer import build_tokenizer
from skyreels_jax.data.toy_film.world import attributes, sample_scene


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer()


@pytest.mark.parametrize("split", world.SPLITS)
def test_structured_captions_invert(split):
    for seed in range(150):
        scene = sample_scene(seed, split)
        caption = json.loads(json.dumps(captions.structured(scene)))
        assert attributes(captions.scene_from_structured(caption)) == attributes(scene)


def test_every_wording_is_read_back():
    tables = {
        "colour": captions.COLOUR_WORDS,
        "shape": captions.SHAPE_WORDS,
        "shot_type": captions.SHOT_WORDS,
        "environment": captions.ENVIRONMENT_WORDS,
        "lighting": captions.LIGHTING_WORDS,
        "speed": captions.SPEED_WORDS,
        "direction": captions.ACTION_WORDS,
        "camera_motion": captions.CAMERA_WORDS,
    }
    for name, table in tables.items():
        assert set(table) == set(world.ATTRIBUTES[name])
        for value, wordings in table.items():
            assert [captions._read(name, w) for w in wordings] == [value] * len(wordings)


def test_schema_of_the_official_captioner():
    caption = captions.structured(sample_scene(3))
    assert set(caption) == {
        "subjects",
        "shot_type",
        "shot_angle",
        "shot_position",
        "camera_motion",
        "environment",
        "lighting",
    }
    (subject,) = caption["subjects"]
    assert set(subject) == {
        "TYPES",
        "appearance",
        "action",
        "expression",
        "position",
        "is_main_subject",
    }
    assert subject["is_main_subject"] is True and subject["expression"] == ""


def test_sentences_are_varied_short_and_known(tokenizer):
    scene = sample_scene(7)
    assert captions.sentence(scene, 1) == captions.sentence(scene, 1)
    assert len({captions.sentence(scene, seed) for seed in range(20)}) > 10
    unknown = tokenizer.unk_token_id
    for seed in range(1500):
        scene = sample_scene(seed, world.SPLITS[seed % 3])
        text = captions.sentence(scene, seed)
        assert text[0].isupper() and text.endswith(".") and len(text.split()) <= captions.MAX_WORDS
        assert unknown not in tokenizer(text).input_ids, text
        if scene.camera_motion != "static":
            assert text.split(". ")[-1].startswith("The camera")


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"lighting": "foggy"}, "lighting 'foggy' is not understood; say one of day, dusk, night"),
        ({"environment": "a city in a desert"}, "names desert and city"),
        ({"camera_motion": "roll"}, "static, pan_left"),
        ({"shot_type": None}, "long_shot, medium_shot, close_up"),
        ({"subjects": []}, "exactly one main subject, has 0"),
        ({"subjects": "a ring"}, "needs"),
    ],
)
def test_bad_captions_say_what_is_legal(change, complaint):
    caption = captions.structured(sample_scene(0)) | change
    with pytest.raises(UserError, match=complaint):
        captions.scene_from_structured(caption)


def test_tokenizer_ids_and_saved_folder(tokenizer, tmp_path):
    assert (tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id) == (0, 1, 2)
    text = "A RED ring, close-up: xyzzy."
    ids = tokenizer(text).input_ids
    assert ids[-1] == 1 and ids.count(2) == 1 and len(ids) == 9
    assert tokenizer("").input_ids == [1]
    assert tokenizer.decode(tokenizer("the camera pans left").input_ids[:-1]) == (
        "the camera pans left"
    )
    tokenizer.save_pretrained(tmp_path)
    for cls in (AutoTokenizer, type(tokenizer)):
        loaded = cls.from_pretrained(tmp_path)
        padded = loaded(text, padding="max_length", max_length=12, truncation=True)
        assert padded.input_ids == ids + [0] * 3
        assert padded.attention_mask == [1] * 9 + [0] * 3
