"""Films of causal models through the public surface: blocks from a KV cache, carried and saved."""

import dataclasses
import gc
import logging

import jax
import ml_dtypes
import numpy as np
import pytest
from streams import OTHER, PROMPT, SMALL, frames, picture
from test_film_lora import write_lora

from skyreels_jax.core.errors import UserError
from skyreels_jax.pipelines import stream as stream_parts
from skyreels_jax.pipelines.generate import initial_noise
from skyreels_jax.pipelines.image import crop_to_aspect
from skyreels_jax.pipelines.state import read_state
from skyreels_jax.pipelines.stream import decode_window, encode_frames

# Blocks of 2 latent frames are 5 frames, then 8 each; a block sees two before it.
LONG = {**SMALL, "num_frames": 29}


@pytest.fixture(scope="module")
def whole(causal):
    """A film of four blocks, collected; the first one is out of sight of the last."""
    return causal.generate(PROMPT, **LONG).frames


def test_a_stream_is_the_film_that_generate_makes(causal, whole):
    stream = causal.stream(PROMPT, **LONG)
    chunks = list(stream)
    assert [len(chunk) for chunk in chunks] == [5, 8, 8, 8]
    assert stream.plan.carry == "cache"
    np.testing.assert_array_equal(np.concatenate(chunks), whole)
    assert whole.shape == (29, 16, 32, 3) and whole[5:].std() > 10
    np.testing.assert_array_equal(frames(causal.stream(PROMPT, **SMALL), 4), whole)  # no end


def test_a_resumed_film_is_the_same(causal, whole, tmp_path):
    """In a file, and in memory, where the next block destroys what is on the device."""
    stream = causal.stream(PROMPT, **LONG)
    before = frames(stream, 3)
    state = stream.state
    path = state.save(tmp_path / "film.state")
    for resumed in (causal.resume(path), causal.resume(state), causal.resume(state)):
        assert resumed.frames == 21
        np.testing.assert_array_equal(np.concatenate([before, *resumed]), whole)
    assert resumed.state.complete
    longer = causal.resume(path, seconds=3)
    assert longer.plan.num_frames == 37
    film = np.concatenate([before, *longer])
    assert len(film) == 37
    np.testing.assert_array_equal(film[:29], whole)


def test_a_film_without_guidance_is_resumed(causal):
    stream = causal.stream(PROMPT, guidance_scale=1.0, **LONG)
    next(stream)
    state = stream.state
    rest = frames(stream)
    np.testing.assert_array_equal(frames(causal.resume(state)), rest)


def test_a_stream_that_failed_has_no_state(causal, monkeypatch):
    stream = causal.stream(PROMPT, **LONG)
    next(stream)
    before = stream.state
    monkeypatch.setattr(stream_parts, "decoding", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        next(stream)
    assert stream.state is None and list(stream) == []
    monkeypatch.undo()
    assert [len(chunk) for chunk in causal.resume(before)] == [8, 8, 8]


def test_a_bfloat16_film_is_resumed_from_a_bfloat16_state(causal, tmp_path):
    stream = causal.stream(PROMPT, dtype="bfloat16", **LONG)
    next(stream)
    path = stream.state.save(tmp_path / "film.state")
    rest = frames(stream)
    key, value = read_state(path).cache[-2:]
    assert key.dtype == value.dtype == ml_dtypes.bfloat16
    assert key.shape == (2, 2, 4, 2, 2, 12)  # layers, sides, frames, tokens, heads, width
    assert key[:, :, :2].astype(np.float32).any() and not key[:, :, 2:].astype(np.float32).any()
    np.testing.assert_array_equal(frames(causal.resume(path)), rest)


def test_states_of_other_films_are_refused(causal):
    stream = causal.stream(PROMPT, **LONG)
    next(stream)
    state, replace = stream.state, dataclasses.replace
    bfloat16 = replace(state.recipe, dtype="bfloat16")
    wider = replace(state.film, base_num_frames=37)
    for damaged, message in [
        (replace(state, recipe=bfloat16), r"float32 \[2, .* needs bfloat16 \[2, 2, 4, 2, 2, 12\]"),
        (replace(state, film=wider), "its windows have base_num_frames 37, its recipe 21"),
        (
            replace(state, film=wider, recipe=replace(state.recipe, base_num_frames=37)),
            r"\[2, 2, 4, 2, 2, 12\] where this film needs float32 \[2, 2, 8, 2, 2, 12\]",
        ),
        (
            replace(state, film=replace(state.film, causal_block_size=1)),
            "its windows have causal_block_size 1, its recipe 2",
        ),
        (replace(state, cache=state.cache[:-1]), "holds nothing where"),
        (replace(state, cache=(*state.cache, state.cache[0])), "needs nothing"),
    ]:
        with pytest.raises(UserError, match=message) as caught:
            causal.resume(damaged)
        assert "the state is damaged" in str(caught.value) and "\n" not in str(caught.value)


def test_films_in_a_batch_are_those_alone(causal, whole):
    first, second, third = causal.generate(
        [PROMPT, OTHER, PROMPT], seed=[0, 1, 2], batch_size=2, **LONG
    )
    assert np.abs(first.frames.astype(int) - whole).max() <= 1  # rounding
    alone = causal.generate(PROMPT, seed=2, **LONG)
    assert np.abs(third.frames.astype(int) - alone.frames).max() <= 1
    assert np.abs(second.frames.astype(int) - whole).max() > 20
    assert third.meta == alone.meta
    assert (third.meta["carry"], third.meta["sink_frames"]) == ("cache", 0)


def test_nothing_compiles_and_nothing_piles_up_after_two_blocks(causal, caplog):
    """Not for a new prompt either: all texts of a story have one shape."""
    stream, sizes = causal.stream([(0, PROMPT), (20 / 12, OTHER)], **SMALL), []
    for index in range(6):
        with jax.log_compiles(index >= 2), caplog.at_level(logging.WARNING):
            next(stream)
        gc.collect()  # what other tests left
        held = sum(array.nbytes for array in jax.live_arrays())
        sizes.append((held, sum(array.nbytes for array in stream.state.cache)))
    assert not [r.message for r in caplog.records if "Compiling" in r.message]
    assert sizes[3] == sizes[4] == sizes[5]


def test_prompts_change_from_block_to_block(causal, whole):
    """Blocks end at 5, 13, 21 and 29 frames, and show what holds in the middle of them."""
    story = [(0, PROMPT), (16 / 12, OTHER)]
    film = frames(causal.stream(story, **LONG))
    np.testing.assert_array_equal(film[:13], whole[:13])
    assert (film[13:21] != whole[13:21]).any()
    stream = causal.stream(story, **LONG)
    before = frames(stream, 3)
    resumed = causal.resume(stream.state)
    np.testing.assert_array_equal(np.concatenate([before, *resumed]), film)


def test_an_image_is_the_first_frame(causal):
    image = picture(0, 20, 32)
    film = causal.generate(PROMPT, image=image, **LONG).frames
    latents = encode_frames(causal._vae, crop_to_aspect(image, 16, 32)[None], temporal=4)
    reconstruction, _, _ = decode_window(causal._vae, latents)
    np.testing.assert_array_equal(film[:1], reconstruction)
    other = causal.generate(PROMPT, image=picture(1), **LONG).frames
    assert (other[1:] != film[1:]).any()


def test_a_video_is_shown_and_continued(causal):
    """Of its 3 last latent frames two are a whole block and one is in the first that is made."""
    clip = np.stack([picture(seed) for seed in range(11)])
    options = {"video_path": clip, "overlap_history": 9, **SMALL}
    stream = causal.stream(PROMPT, seconds=0.8, **options)
    shown, (first, *rest) = next(stream), list(stream)
    np.testing.assert_array_equal(shown, clip)
    assert [len(chunk) for chunk in (first, *rest)] == [4, 8]
    stream = causal.stream(PROMPT, num_frames=21, **options)
    before = frames(stream, 2)
    film = np.concatenate([before, *causal.resume(stream.state)])
    np.testing.assert_array_equal(film, np.concatenate([shown, first, *rest]))
    np.testing.assert_array_equal(causal.generate(PROMPT, num_frames=21, **options).frames, film)


def test_sinks_noise_guidance_and_adapters_matter(causal, whole, tmp_path):
    lora = write_lora(tmp_path / "q.safetensors")
    for changed, since in [
        ({"sink_frames": 2}, 21),  # the last block sees the first one instead of the second
        ({"addnoise_condition": 200}, 5),
        ({"guidance_scale": 1.0}, 0),
        ({"lora": lora}, 0),
        ({"seed": 1}, 0),
    ]:
        film = causal.generate(PROMPT, **changed, **LONG).frames
        difference = np.abs(film.astype(int) - whole)
        assert difference[:since].max(initial=0) <= 1, changed  # rounding
        assert difference[since : since + 8].max() > 1, changed


def test_latents_of_the_whole_film_take_the_place_of_seeds(causal, whole):
    rows = [np.asarray(initial_noise([0], (2, 2, 4, 4), window=index)) for index in range(4)]
    film = causal.generate(PROMPT, latents=np.concatenate(rows, axis=1), **LONG)
    np.testing.assert_array_equal(film.frames, whole)


def test_progress_counts_the_steps_of_all_blocks(causal):
    counted = []
    causal.generate(PROMPT, progress=counted.append, **LONG)
    request = causal.source.request(prompt=PROMPT, **LONG)
    assert len(counted) == causal.steps(request) == 2 * 4


@pytest.mark.parametrize("carry", ["pixels", "latents"])
def test_windows_of_a_causal_model_stay_legal(causal, carry):
    """Latent frames 6, then 2 more after 4 of these: whole windows under the causal mask."""
    options = {"base_num_frames": 21, "overlap_history": 13, **LONG}
    film = causal.generate(PROMPT, carry=carry, ar_step=1, **options)
    assert film.frames.shape[0] == 29 and film.meta["carry"] == carry


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"end_image": picture(0)}, "a causal model does not see what comes later"),
        (
            {"ar_step": 1},
            "ar_step 1 .* is one block; legal: 0, or carry pixels or latents",
        ),
        ({"teacache": True, "force_teacache": True}, "legal: no teacache, or carry pixels or"),
        ({"causal_block_size": 4}, "causal_block_size 4 .* legal: 2, or carry pixels or latents"),
        ({"num_frames": 25}, "1 latent frame for the last window, .* nearest legal: 21 or 29"),
        ({"base_num_frames": 9}, "9 is 3 latent frames; .* at least 2 .* nearest legal: 13$"),
        ({"sink_frames": 1}, "sink_frames 1 are not whole blocks of 2 .* nearest legal: 0 or 2"),
        ({"sink_frames": 4}, "is 6 latent frames; .* 4 sinks; nearest legal: 29"),
        ({"sink_frames": 2, "carry": "latents"}, "with carry 'latents' legal: 0"),
        ({"carry": "frames"}, "carry 'frames' is not one of cache, pixels, latents"),
    ],
)
def test_refusals(causal, options, message):
    with pytest.raises(UserError, match=message) as caught:
        causal.source.request(prompt=PROMPT, **LONG | options)
    assert "\n" not in str(caught.value)


def test_models_that_are_not_causal_keep_no_blocks(forcing):
    with pytest.raises(UserError, match="legal: pixels, latents, or a causal model"):
        forcing.generate(PROMPT, carry="cache", **SMALL)
    assert forcing.source.request(prompt=PROMPT).film.carry == "pixels"
