"""Films of any length: the same in one go, window by window, and resumed; memory that stays."""

import gc
import itertools
import logging

import jax
import numpy as np
import pytest
from streams import OTHER, PROMPT, SMALL, frames, picture

from skyreels_jax.core.errors import UserError
from skyreels_jax.pipelines import generate as parts
from skyreels_jax.pipelines.film import Film
from skyreels_jax.pipelines.generate import initial_noise
from skyreels_jax.pipelines.image import crop_to_aspect
from skyreels_jax.pipelines.stream import Films, decode_window, encode_frames

# Windows of 9 frames share 5: 9, 4, 4, ...
LONG = {**SMALL, "num_frames": 17}


@pytest.fixture(scope="module", params=["pixels", "latents"])
def carry(request):
    return request.param


@pytest.fixture(scope="module")
def whole(forcing, carry):
    """A film of three windows, collected."""
    return forcing.generate(PROMPT, carry=carry, **LONG).frames


def test_a_stream_is_the_film_that_generate_makes(forcing, carry, whole):
    stream = forcing.stream(PROMPT, carry=carry, **LONG)
    chunks = list(stream)
    assert [len(chunk) for chunk in chunks] == [9, 4, 4]
    assert (stream.frames, stream.seconds) == (17, 17 / 12)
    np.testing.assert_array_equal(np.concatenate(chunks), whole)
    assert whole.shape == (17, 16, 32, 3) and whole.dtype == np.uint8
    assert whole[9:].std() > 10 and (whole[9:13] != whole[13:]).any()


def test_carried_latents_make_one_long_clip(forcing, monkeypatch):
    """A window starts from the last latents before it, and the film is all of them decoded."""
    runs, denoise = [], parts.denoise

    def spied(velocity, given, *args, **kwargs):
        made = yield from denoise(velocity, given, *args, **kwargs)
        runs.append((np.asarray(given), np.asarray(made)))
        return made

    monkeypatch.setattr(parts, "denoise", spied)
    film = forcing.generate(PROMPT, carry="latents", **LONG)
    assert [made.shape[1] for _, made in runs] == [3, 3, 3]
    for (_, before), (given, made) in itertools.pairwise(runs):
        np.testing.assert_array_equal(given[:, :2], before[:, 1:])
        np.testing.assert_array_equal(made[:, :2], before[:, 1:])
    latents = np.concatenate([runs[0][1], *(made[:, 2:] for _, made in runs[1:])], axis=1)
    whole, _, _ = decode_window(forcing._vae, latents)
    np.testing.assert_array_equal(film.frames, whole)


def test_a_stream_has_no_end(forcing, carry, whole):
    np.testing.assert_array_equal(frames(forcing.stream(PROMPT, carry=carry, **SMALL), 3), whole)


@pytest.mark.parametrize("windows", [1, 2])
def test_a_resumed_film_is_the_same(forcing, carry, whole, windows, tmp_path):
    stream = forcing.stream(PROMPT, carry=carry, **LONG)
    before = frames(stream, windows)
    path, plain = stream.state.save(tmp_path / "film.state"), tmp_path / "plain"
    plain.touch()
    assert path.stat().st_mode == plain.stat().st_mode  # others may read it as they may any file
    resumed = forcing.resume(path)
    assert resumed.frames == len(before)
    np.testing.assert_array_equal(np.concatenate([before, *resumed]), whole)
    assert resumed.frames == 17


def test_a_state_outlives_the_stream_it_is_of(forcing, carry, whole):
    """What is on the device is destroyed by the next window."""
    stream = forcing.stream(PROMPT, carry=carry, **LONG)
    assert stream.state is None
    next(stream)
    state = stream.state
    rest = frames(stream)
    np.testing.assert_array_equal(frames(forcing.resume(state)), rest)


def test_a_window_that_cannot_begin_costs_none_that_is_finished(forcing, carry, whole, monkeypatch):
    def noise(seeds, shape, *, window):
        if window == 2:
            raise MemoryError
        return initial_noise(seeds, shape, window=window)

    stream = forcing.stream(PROMPT, carry=carry, **LONG)
    with monkeypatch.context() as patch:
        patch.setattr(parts, "initial_noise", noise)
        np.testing.assert_array_equal(frames(stream, 2), whole[:13])
        with pytest.raises(MemoryError):
            next(stream)
    assert list(stream) == [] and stream.frames == 13
    np.testing.assert_array_equal(frames(forcing.resume(stream.state)), whole[13:])


def test_there_is_no_state_where_the_next_window_has_destroyed_it(
    forcing, carry, whole, monkeypatch
):
    show = Films._show

    def shown(*args):
        show(*args)
        raise MemoryError

    stream = forcing.stream(PROMPT, carry=carry, **LONG)
    next(stream)
    monkeypatch.setattr(Films, "_show", shown)
    with pytest.raises(MemoryError):
        next(stream)
    monkeypatch.undo()
    if carry == "latents":  # the decoder's cache
        assert not stream.has_state and stream.state is None
    else:
        np.testing.assert_array_equal(frames(forcing.resume(stream.state)), whole[9:])


def test_a_film_that_fits_a_window_is_the_one_of_a_text_model(forcing, micro):
    """The same weights; the loop and the numbers are the same."""
    film = forcing.generate(PROMPT, seed=3, **SMALL)
    np.testing.assert_array_equal(film.frames, micro.generate(PROMPT, seed=3, **SMALL).frames)


def test_the_first_window_is_the_film_of_its_length(forcing, whole):
    short = forcing.generate(PROMPT, **SMALL).frames
    assert np.abs(short.astype(int) - whole[:9]).max() <= 1


def test_films_in_a_batch_are_those_alone(forcing, carry, whole):
    first, second, third = forcing.generate(
        [PROMPT, OTHER, PROMPT], seed=[0, 1, 2], batch_size=2, carry=carry, **LONG
    )
    assert np.abs(first.frames.astype(int) - whole).max() <= 1  # rounding
    alone = forcing.generate(PROMPT, seed=2, carry=carry, **LONG)
    assert np.abs(third.frames.astype(int) - alone.frames).max() <= 1
    assert np.abs(second.frames.astype(int) - whole).max() > 20
    assert third.meta == alone.meta and third.meta["carry"] == carry


def test_seed_and_noise_on_conditions_matter_in_later_windows(forcing, whole):
    for options in ({"addnoise_condition": 50}, {"ar_step": 1}, {"overlap_history": 1}):
        other = forcing.generate(PROMPT, **options, **LONG).frames
        assert (other[9:] != whole[9:]).any(), options
    first, again = (forcing.generate(PROMPT, seed=7, **LONG).frames for _ in range(2))
    np.testing.assert_array_equal(first, again)


def test_noise_differs_from_window_to_window():
    shape = (2, 2, 2, 1)
    first, second = (initial_noise([3], shape, window=index) for index in (0, 1))
    assert not np.array_equal(first, second)
    np.testing.assert_array_equal(first, initial_noise([3], shape))


def test_nothing_compiles_and_nothing_piles_up_after_two_windows(forcing, carry, caplog):
    stream = forcing.stream(PROMPT, carry=carry, **SMALL)
    sizes = []
    for index in range(5):
        if index == 2:
            logging_compiles = jax.log_compiles()
            logging_compiles.__enter__()
        with caplog.at_level(logging.WARNING):
            next(stream)
        state = stream.state
        arrays = [state.prefix, *state.cache]
        gc.collect()  # what other tests left
        held = sum(array.nbytes for array in jax.live_arrays())
        sizes.append((held, sum(array.nbytes for array in arrays)))
    logging_compiles.__exit__(None, None, None)
    assert not [r.message for r in caplog.records if "Compiling" in r.message]
    assert sizes[2] == sizes[3] == sizes[4]


def test_an_image_is_the_first_frame(forcing, carry):
    image = picture(0, 20, 32)
    film = forcing.generate(PROMPT, image=image, carry=carry, **LONG)
    latents = encode_frames(forcing._vae, crop_to_aspect(image, 16, 32)[None], temporal=4)
    assert latents.shape == (1, 1, 2, 4, 4)
    reconstruction, _, _ = decode_window(forcing._vae, latents)
    np.testing.assert_array_equal(film.frames[:1], reconstruction)
    other = forcing.generate(PROMPT, image=picture(1), carry=carry, **LONG).frames
    assert (other[1:] != film.frames[1:]).any()
    assert film.meta["image"] is None and len(film.meta["image_sha256"]) == 64


def test_an_end_image_is_led_to_and_not_shown(forcing, carry, whole):
    made = [
        forcing.generate(PROMPT, end_image=picture(seed), carry=carry, **LONG).frames
        for seed in (0, 1)
    ]
    for film in made:
        assert film.shape == whole.shape
        np.testing.assert_array_equal(film[:13], whole[:13])  # it is behind the last window alone
        assert (film[13:] != whole[13:]).any()
    assert (made[0] != made[1]).any()


def test_an_end_image_survives_a_resume(forcing, carry):
    options = {"image": picture(0), "end_image": picture(1), "carry": carry, **LONG}
    stream = forcing.stream(PROMPT, **options)
    before = frames(stream, 2)
    film = np.concatenate([before, frames(forcing.resume(stream.state))])
    np.testing.assert_array_equal(film, forcing.generate(PROMPT, **options).frames)


def test_a_video_is_shown_and_continued(forcing, carry, tmp_path):
    clip = np.stack([picture(seed) for seed in range(11)])
    stream = forcing.stream(PROMPT, video_path=clip, seconds=0.5, carry=carry, **SMALL)
    chunks = list(stream)
    assert [len(chunk) for chunk in chunks] == [9, 2, 4, 4]  # the video, then what is made
    film = np.concatenate(chunks)
    np.testing.assert_array_equal(film[:11], clip)
    assert (film[11:15] != film[15:]).any()
    again = forcing.generate(PROMPT, video_path=clip, num_frames=13, carry=carry, **SMALL)
    np.testing.assert_array_equal(again.frames, film)  # 5 of the 13 are the video's
    assert len(again.meta["video_sha256"]) == 64


def test_an_extension_resumes(forcing, tmp_path):
    clip = np.stack([picture(seed) for seed in range(6)])
    path = Film(frames=clip, fps=12).save(tmp_path / "clip.mp4")
    stream = forcing.stream(PROMPT, video_path=path, num_frames=13, **SMALL)
    assert len(next(stream)) == 6 and stream.state is None
    first = next(stream)
    resumed = forcing.resume(stream.state)
    assert resumed.frames == 10
    rest = frames(resumed)
    np.testing.assert_array_equal(rest, frames(stream))
    assert (first != rest).any()


def test_upright_images_and_videos_make_upright_films(forcing):
    shown = forcing.generate(PROMPT, image=picture(0, 64, 16), num_frames=5, **SMALL)
    assert shown.frames.shape == (5, 32, 16, 3)
    clip = np.stack([picture(seed, 40, 20) for seed in range(5)])
    request = forcing.source.request(prompt=PROMPT, video_path=clip, num_frames=9, **SMALL)
    assert (request.height, request.width) == (32, 16)
    (chunk,) = forcing._shown_before(request)
    assert chunk.shape == (5, 32, 16, 3)


def test_prompts_change_along_the_film(forcing, whole):
    """Windows end at 9, 13 and 17 frames, and show what holds in the middle of what they add."""
    story = [(0, PROMPT), (10 / 12, OTHER)]
    film = frames(forcing.stream(story, **LONG))
    np.testing.assert_array_equal(film[:9], frames(forcing.stream(PROMPT, **LONG))[:9])
    assert (film[9:] != frames(forcing.stream(PROMPT, **LONG))[9:]).any()
    shares = frames(forcing.stream([PROMPT, OTHER], **LONG))
    np.testing.assert_array_equal(shares, film)


def test_crossfades_mix_neighbours(forcing):
    story = [(0, PROMPT), (10 / 12, OTHER)]
    hard = frames(forcing.stream(story, **LONG))
    soft = frames(forcing.stream(story, crossfade=0.8, **LONG))
    assert (soft != hard).any()


def test_a_resumed_story_goes_on(forcing, tmp_path):
    path = tmp_path / "story.txt"
    path.write_text(f"0: {PROMPT}\n1: {OTHER}\n")
    stream = forcing.stream(path, crossfade=0.5, **LONG)
    before = frames(stream, 1)
    film = np.concatenate([before, frames(forcing.resume(stream.state))])
    np.testing.assert_array_equal(film, frames(forcing.stream(path, crossfade=0.5, **LONG)))


def test_a_resumed_film_may_become_longer_or_end(forcing):
    stream = forcing.stream(PROMPT, **SMALL)
    endless = frames(stream, 3)
    stream = forcing.stream(PROMPT, **SMALL)
    before = frames(stream, 1)
    resumed = forcing.resume(stream.state, seconds=1.3)
    assert resumed.plan.num_frames == 17
    np.testing.assert_array_equal(np.concatenate([before, *resumed]), endless)
    assert resumed.state.complete
    with pytest.raises(UserError, match="0.75 seconds are made already"):
        forcing.resume(stream.state, seconds=0.5)
    with pytest.raises(UserError, match="is complete"):
        forcing.resume(resumed.state)


def test_progress_counts_the_rows_of_all_windows(forcing):
    counted = []
    options = {**LONG, "ar_step": 1}
    forcing.generate(PROMPT, progress=counted.append, **options)
    request = forcing.source.request(prompt=PROMPT, **options)
    assert len(counted) == forcing.steps(request) == (2 + 2) + 2 + 2


def test_latents_of_the_whole_film_take_the_place_of_seeds(forcing):
    noise = np.asarray(initial_noise([7], (5, 2, 4, 4)))
    film = forcing.generate(PROMPT, latents=noise, end_image=picture(0), **LONG)
    assert film.frames.shape[0] == 17
    with pytest.raises(UserError, match=r"float32 \[1, 5, 2, 4, 4\]"):
        forcing.generate(PROMPT, latents=noise[:, :3], **LONG)


@pytest.mark.parametrize(
    "options", [{"base_num_frames": 9}, {"ar_step": 1}, {"carry": "latents"}, {"end_image": "a"}]
)
def test_other_models_make_films_in_one_go(micro, options):
    with pytest.raises(UserError, match=f"is no diffusion-forcing model.*{next(iter(options))}"):
        micro.generate(PROMPT, **options)
    with pytest.raises(UserError, match="is no diffusion-forcing model.*endless"):
        micro.stream(PROMPT)
