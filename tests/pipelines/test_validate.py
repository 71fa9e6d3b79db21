"""Every request is checked before weights are touched, and every refusal says what is legal."""

import numpy as np
import pytest

from skyreels_jax.core.errors import UserError
from skyreels_jax.pipelines import defaults, prompts, validate

GEOMETRY = validate.Geometry(latent_channels=16)


def request(**options):
    options = {"prompt": "a red circle", **options}
    return validate.make_request(defaults.Defaults(), GEOMETRY, **options)


def test_defaults_are_the_official_ones():
    made = request()
    assert (made.num_frames, made.height, made.width, made.fps) == (97, 544, 960, 24)
    assert (made.inference_steps, made.guidance_scale, made.shift) == (50, 6.0, 8.0)
    assert made.negative_prompt == prompts.WAN_NEGATIVE_PROMPT
    assert GEOMETRY.latent_shape(num_frames=97, height=544, width=960) == (25, 68, 120, 16)


def test_options_that_are_none_take_the_default():
    assert request(num_frames=None, seed=7).num_frames == 97
    assert request(negative_prompt="").negative_prompt == ""


def test_one_seed_serves_all_prompts_or_each_has_its_own():
    assert request(prompt=["a", "b"], seed=np.int64(5)).seeds == (5, 5)
    assert request(prompt=["a", "b"], seed=[1, 2]).seeds == (1, 2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prompt": "  "}, "empty"),
        ({"prompt": []}, "no prompt"),
        ({"prompt": ["a", 3]}, "a prompt is a text, got int"),
        ({"prompt": None}, "a prompt is a text, got NoneType"),
        ({"seed": None}, "seed must be a whole number, got None"),
        ({"teacache_thresh": 0.1}, "teacache_thresh does nothing without teacache"),
        ({"teacache": False, "teacache_thresh": 0.1}, "does nothing without teacache"),
        ({"force_teacache": True}, "force_teacache does nothing without teacache"),
        ({"negative_prompt": ["a"]}, "one text"),
        ({"num_frames": 32}, "not 4k\\+1; nearest legal: 29 or 33"),
        ({"num_frames": 0}, "legal: 1 to 4093"),
        ({"num_frames": 33.0}, "whole number"),
        ({"height": 100}, "not divisible by 16; nearest legal: 96 or 112"),
        ({"width": 8}, "legal: 16 to 16384"),
        ({"inference_steps": -3}, "legal: 1 to 1000"),
        ({"inference_steps": True}, "whole number"),
        ({"guidance_scale": float("nan")}, "out of range"),
        ({"guidance_scale": -1}, "at least 0"),
        ({"shift": 0}, "more than 0"),
        ({"fps": "fast"}, "must be a number"),
        ({"fps": 0}, "more than 0, at most 240"),
        ({"dtype": "float16"}, "legal: float32, bfloat16"),
        ({"seed": -1}, "legal: 0 to 4294967295"),
        ({"prompt": ["a", "b"], "seed": [1]}, "1 seeds for 2 prompts"),
        ({"batch_size": 0}, "legal: 1 to"),
        ({"num_frame": 33}, "did you mean 'num_frames'"),
    ],
)
def test_refusals_name_what_is_legal(options, message):
    with pytest.raises(UserError, match=message) as caught:
        request(**options)
    assert "\n" not in str(caught.value)


def test_latents_must_be_the_noise_of_this_film():
    shape = (1, 2, 8, 8, 16)
    noise = np.zeros(shape, np.float32)
    assert validate.check_latents(noise, shape) is noise
    with pytest.raises(UserError, match=r"float32 \[1, 2, 8, 8, 16\].*got float64"):
        validate.check_latents(noise.astype(np.float64), shape)
    with pytest.raises(UserError, match="finite"):
        validate.check_latents(noise + np.float32("inf"), shape)


def test_long_prompts_are_refused_not_cut():
    validate.check_token_counts(["a", "b"], [512, 3], max_length=512)
    with pytest.raises(UserError, match="513 tokens; at most 512"):
        validate.check_token_counts(["a", "b"], [3, 513], max_length=512)


@pytest.mark.parametrize(
    ("text", "size"),
    [("540P", (544, 960)), ("720p", (720, 1280)), ("256p", (256, 448)), ("64x96", (64, 96))],
)
def test_resolutions(text, size):
    assert validate.parse_resolution(text) == size


@pytest.mark.parametrize("text", ["480P", "64", "64x", "-64x64", "64x64x3", ""])
def test_resolutions_that_are_none(text):
    with pytest.raises(UserError, match="540P, 720P or HxW"):
        validate.parse_resolution(text)


def test_prompt_files(tmp_path):
    path = tmp_path / "prompts.txt"
    path.write_text("a red circle\n\n  ein großer Kreis \n", encoding="utf-8")
    assert prompts.read_prompts(path) == ["a red circle", "ein großer Kreis"]
    path.write_bytes("one\u2028prompt\r\nnext\x85too".encode())
    assert prompts.read_prompts(path) == ["one\u2028prompt", "next\x85too"]
    path.write_text("\n")
    with pytest.raises(UserError, match="holds no prompt"):
        prompts.read_prompts(path)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="UTF-8"):
        prompts.read_prompts(path)
    with pytest.raises(UserError, match="cannot read"):
        prompts.read_prompts(tmp_path / "absent.txt")


def test_film_names_are_distinct_and_safe():
    names = prompts.film_names(["A/b: c!", "A/b: c!", "???", "x" * 200], [1, 1, 2, 3])
    assert names[:3] == ["a-b-c_seed1", "a-b-c_seed1_2", "film_seed2"]
    assert len(names[3]) < 80


def test_defaults_of_a_folder(tmp_path):
    assert defaults.read_defaults(tmp_path, {"flow_shift": 5.0}).shift == 5.0
    assert defaults.read_defaults(tmp_path, {}) == defaults.Defaults()
    data = {"num_frames": 65, "middle": 0.5}
    config = {"data": data, "stages": [{"frames": 17}, {"frames": 33}], "flow_shift": 3.0}
    model, causal = ({"model": {"transformer": {"num_frame_per_block": n}}} for n in (1, 3))
    toy = defaults.toy_defaults(config | model)
    assert (toy.num_frames, toy.shift) == (33, 3.0)  # what it saw, not what that was cut from
    assert toy.carry == "latents" and defaults.toy_defaults(config | causal).carry is None
    whole = {"data": data | {"middle": 0.0}, "stages": []}
    toy = defaults.toy_defaults(config | model | whole)
    assert (toy.num_frames, toy.carry) == (65, None)
    defaults.write_defaults(tmp_path, toy)
    assert defaults.read_defaults(tmp_path, {"flow_shift": 5.0}) == toy
    (tmp_path / defaults.SETTINGS).write_text("{")
    with pytest.raises(UserError, match="not readable as json"):
        defaults.read_defaults(tmp_path, {})
