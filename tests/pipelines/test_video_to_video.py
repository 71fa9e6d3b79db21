"""Clips made again: from the round trip through the VAE to the film of the text."""

import numpy as np
import pytest

from skyreels_jax.core.errors import UserError
from skyreels_jax.pipelines.stream import decode_window, encode_frames
from skyreels_jax.pipelines.video_to_video import remake

PROMPT = "A large red circle moves left."


@pytest.fixture(scope="module")
def clip(micro):
    return micro.generate("A small blue square jumps.", seed=9).frames


def gap(a, b) -> float:
    return float(np.abs(a.astype(int) - b).mean())


def test_from_the_round_trip_to_the_film_of_the_text(micro, clip):
    latents = encode_frames(micro._vae, clip, temporal=4)
    trip, _, _ = decode_window(micro._vae, latents)
    text = micro.generate(PROMPT, seed=1).frames
    made = {s: remake(micro, "v2v", clip, PROMPT, s, 1) for s in (0.001, 0.3, 1.0)}
    np.testing.assert_array_equal(micro.reconstruct(clip), trip)
    assert all(film.shape == clip.shape and film.dtype == np.uint8 for film in made.values())
    assert gap(made[0.001], trip) < 1 < gap(made[0.3], trip) < gap(text, trip)
    assert np.abs(made[1.0].astype(int) - text).max() <= 1
    np.testing.assert_array_equal(remake(micro, "v2v", clip, PROMPT, 0.3, 1), made[0.3])
    assert gap(remake(micro, "v2v", clip, PROMPT, 0.3, 2), made[0.3]) > 1
    np.testing.assert_array_equal(remake(micro, "t2v", clip, PROMPT, 1.0, 1), text)


def test_a_forcing_model_keeps_the_first_frame(forcing, clip):
    made = remake(forcing, "i2v", clip, PROMPT, 1.0, 3)
    film = forcing.generate(PROMPT, image=clip[0], seed=3)
    np.testing.assert_array_equal(made, film.frames)
    together, staggered = (
        remake(forcing, "v2v", clip, PROMPT, 0.5, 3, ar_step=step) for step in (0, 1)
    )
    assert gap(together, staggered) > 0
    trip, _, _ = decode_window(forcing._vae, encode_frames(forcing._vae, clip, temporal=4))
    assert gap(remake(forcing, "v2v", clip, PROMPT, 0.001, 3, ar_step=1), trip) < 1


def test_a_causal_model_sees_the_clip_whole(causal, clip):
    clip = np.concatenate([clip] * 3)[:21]
    made = remake(causal, "v2v", clip, PROMPT, 0.3, 1)
    assert made.shape == clip.shape
    with pytest.raises(UserError, match="more than one window; .* carry pixels or latents"):
        remake(causal, "v2v", clip, PROMPT, 0.3, 1, carry="cache")


@pytest.mark.parametrize(
    ("kind", "strength", "options", "complaint"),
    [
        ("v3v", 1.0, {}, "'v3v' is not one of v2v, i2v, t2v"),
        ("v2v", 0.0, {}, "strength 0 of v2v is out of range; legal: more than 0, at most 1"),
        ("t2v", 0.5, {}, "strength 0.5 of t2v is out of range; legal: 1"),
        ("i2v", 1.0, {}, "is a text-to-video model and takes no image"),
        ("v2v", 0.5, {"inference_steps": 0}, "inference_steps 0 is out of range"),
    ],
)
def test_bad_input(micro, clip, kind, strength, options, complaint):
    with pytest.raises(UserError, match=complaint):
        remake(micro, kind, clip, PROMPT, strength, 0, **options)


def test_clips_that_fit_no_window(micro, forcing, clip):
    with pytest.raises(UserError, match=r"a clip of 8 frames of .* legal: 4k \+ 1 frames"):
        micro.reconstruct(clip[:8])
    with pytest.raises(UserError, match="num_frames 8 is not 4k"):
        remake(micro, "v2v", clip[:8], PROMPT, 0.5, 0)
    with pytest.raises(UserError, match="more than one window; legal: base_num_frames 9 or more"):
        options = {"base_num_frames": 5, "overlap_history": 1}
        remake(forcing, "v2v", clip, PROMPT, 0.5, 0, **options)
