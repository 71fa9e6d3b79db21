"""Films from a model: reproducible, batch-independent, compiled once."""

import logging

import jax
import numpy as np
import pytest
from flax import nnx

from skyreels_jax.core.errors import UserError
from skyreels_jax.core.tree import named_leaves
from skyreels_jax.models.kinds import TRAINED, in_float32
from skyreels_jax.pipelines.generate import initial_noise, to_uint8
from skyreels_jax.pipelines.load import load
from skyreels_jax.pipelines.recipe import Recipe
from skyreels_jax.pipelines.stream import decode_window

PROMPT = "A large red circle moves left."


def difference(a, b) -> int:
    return int(np.abs(a.frames.astype(int) - b.frames).max())


def test_a_film_is_bytes_at_the_defaults_of_its_folder(micro):
    film = micro.generate(PROMPT)
    assert film.frames.shape == (9, 32, 48, 3) and film.frames.dtype == np.uint8
    assert film.fps == 12
    assert film.frames.std() > 10  # not a flat picture, or the tests below say nothing


def test_same_seed_same_film_other_seed_other_film(micro):
    film = micro.generate(PROMPT, seed=1)
    assert difference(film, micro.generate(PROMPT, seed=1)) == 0
    assert difference(film, micro.generate(PROMPT, seed=2)) > 20


def test_prompt_guidance_and_shift_matter(micro):
    film = micro.generate(PROMPT, seed=1)
    assert difference(film, micro.generate("A small blue square jumps.", seed=1)) > 1
    assert difference(film, micro.generate(PROMPT, seed=1, guidance_scale=9)) > 1
    assert difference(film, micro.generate(PROMPT, seed=1, shift=9)) > 1
    assert difference(film, micro.generate(PROMPT, seed=1, negative_prompt="dark night")) > 1


def test_a_film_is_the_same_alone_and_in_any_batch(micro):
    prompts, seeds = [PROMPT, "A small blue square jumps.", PROMPT], [1, 1, 2]
    alone = [micro.generate(p, seed=s) for p, s in zip(prompts, seeds, strict=True)]
    for size in (1, 2, 3):
        films = micro.generate(prompts, seed=seeds, batch_size=size)
        assert len(films) == 3
        for film, one in zip(films, alone, strict=True):
            assert difference(film, one) <= 1  # rounding
            assert film.meta == one.meta


def test_latents_are_kept_that_are_decoded_to_the_films(micro):
    request = micro.source.request(prompt=[PROMPT] * 3, seed=[1, 2, 3], batch_size=2)
    kept = []
    films = list(micro.films(request, keep=kept.append))
    assert [latents.shape for latents in kept] == [(2, 3, 4, 6, 4)] * 2
    for film, latents in zip(films, np.concatenate(kept), strict=False):
        np.testing.assert_array_equal(decode_window(micro._vae, latents[None])[0], film.frames)


def test_latents_take_the_place_of_the_seed(micro):
    noise = np.asarray(initial_noise([7], (3, 4, 6, 4)))
    film = micro.generate(PROMPT, latents=noise, seed=1)
    assert difference(film, micro.generate(PROMPT, seed=7)) == 0
    assert len(film.meta["latents"]) == 64
    with pytest.raises(UserError, match=r"float32 \[1, 3, 4, 6, 4\]"):
        micro.generate(PROMPT, latents=noise[:, :2])


def test_nothing_compiles_again_when_only_values_change(micro, caplog):
    micro.generate(PROMPT, seed=0)
    with jax.log_compiles(), caplog.at_level(logging.WARNING):
        micro.generate(
            "A small blue square moves slowly to the right, over a yellow desert at dusk.",
            seed=5,
            guidance_scale=2.5,
            shift=7.0,
            inference_steps=3,
            negative_prompt="dark",
            fps=24,
        )
        micro.generate([PROMPT], num_frames=9)
    assert not [r.message for r in caplog.records if "Compiling" in r.message]


def test_a_longer_prompt_compiles_once_what_reads_it(micro, caplog):
    """Prompts are padded to whole multiples of 64 tokens, and programs are made for each."""

    def compiled(words: int) -> list[str]:
        caplog.clear()
        with jax.log_compiles(), caplog.at_level(logging.WARNING):
            micro.generate(" ".join(["red"] * words), seed=0)
        return [r.message.split()[1] for r in caplog.records if r.message.startswith("Compiling")]

    compiled(7)
    made = compiled(65)
    assert 0 < len(made) == len(set(made))
    assert [compiled(words) for words in (120, 40, 64)] == [[], [], []]


def test_longer_films_decode_with_what_is_compiled(micro):
    assert micro.generate(PROMPT, num_frames=17).frames.shape[0] == 17
    assert micro.generate(PROMPT, num_frames=1).frames.shape[0] == 1


def test_guidance_of_one_is_none(micro):
    film = micro.generate(PROMPT, guidance_scale=1)
    other = micro.generate(PROMPT, guidance_scale=1, negative_prompt="anything else")
    assert difference(film, other) == 0


def test_progress_counts_all_steps(micro):
    counted = []
    micro.generate([PROMPT] * 3, batch_size=2, progress=counted.append)
    assert counted == [1] * 4
    request = micro.source.request(prompt=[PROMPT] * 3, batch_size=2)
    assert micro.steps(request) == 4


def test_bfloat16_is_close_and_named(micro):
    film = micro.generate(PROMPT, seed=1, dtype="bfloat16")
    error = np.abs(film.frames.astype(int) - micro.generate(PROMPT, seed=1).frames)
    assert 0 < error.mean() < 6
    assert film.meta["dtype"] == "bfloat16"


def test_loaded_in_bfloat16_small_parameters_stay_float32(micro, micro_folder):
    model = load(str(micro_folder), dtype="bfloat16")
    for module in model.source.read("bfloat16", TRAINED).values():
        leaves = named_leaves(nnx.state(module))
        found = {path.removesuffix("/value"): leaf.dtype for path, leaf in leaves}
        kept = {path for path, dtype in found.items() if dtype == np.float32}
        assert kept == {path for path in found if in_float32(path)} and 0 < len(kept) < len(found)
    film = micro.generate(PROMPT, seed=1, dtype="bfloat16")  # cast for it alone
    assert difference(film, model.generate(PROMPT, seed=1)) == 0


def test_the_recipe_says_everything(micro, micro_folder):
    meta = micro.generate(PROMPT, seed=3).meta
    assert set(meta) == set(Recipe.__dataclass_fields__)
    assert (meta["prompt"], meta["seed"], meta["latents"]) == (PROMPT, 3, None)
    assert meta["model_id"] == str(micro_folder)


def test_noise_is_named_by_seed_alone():
    two = initial_noise([3, 4], (2, 2, 2, 1))
    np.testing.assert_array_equal(two[1], initial_noise([4], (2, 2, 2, 1))[0])
    assert not np.array_equal(*(initial_noise([s], (2, 2, 2, 1)) for s in (2**31, 2**32 - 1)))
    big = initial_noise([0], (8, 16, 16, 4))
    assert abs(float(big.mean())) < 0.03 and abs(float(big.std()) - 1) < 0.03


def test_pixels_round_to_even():
    video = np.float32([-2, -1, 0, 1, 2]).reshape(1, 1, 1, 5, 1).repeat(3, -1)
    assert to_uint8(jax.numpy.asarray(video))[0, 0, 0, :, 0].tolist() == [0, 0, 128, 255, 255]


@pytest.mark.parametrize(
    ("count", "size", "rows"),
    [(1, 8, [[0]]), (3, 2, [[0, 1], [2, 2]]), (9, 8, [[0, 1, 2, 3, 4], [5, 6, 7, 8, 8]])],
)
def test_batches_are_of_one_size(micro, count, size, rows):
    request = micro.source.request(prompt=[PROMPT] * count, seed=0, batch_size=size)
    assert request.batches() == rows
