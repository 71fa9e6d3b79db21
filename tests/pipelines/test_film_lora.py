"""Adapters in films: merged for the films that ask for them, gone bit for bit afterwards."""

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

import skyreels_jax
from skyreels_jax.core.errors import UserError
from skyreels_jax.pipelines.lora import Lora, parse_lora
from skyreels_jax.testing.micro import micro_configs

PROMPT = "A large red circle moves left."


def write_lora(path, *, seed=0, layer="transformer.blocks.{i}.attn1.to_q", rank=2):
    """Writes an adapter of the micro model that is strong enough to be seen."""
    random, width = np.random.default_rng(seed), micro_configs()["transformer"].width
    tensors = {}
    for i in range(2):
        name = layer.format(i=i)
        tensors[f"{name}.lora_A.weight"] = random.normal(size=(rank, width))
        tensors[f"{name}.lora_B.weight"] = random.normal(size=(width, rank))
    save_file({name: array.astype(np.float32) for name, array in tensors.items()}, path)
    return str(path)


@pytest.fixture(scope="module")
def lora(tmp_path_factory):
    return write_lora(tmp_path_factory.mktemp("lora") / "q.safetensors")


def same(a, b):
    return np.array_equal(a.frames, b.frames)


def test_films_with_and_without(micro, lora):
    before = jax.tree.map(np.array, micro._adapted())
    plain = micro.generate(PROMPT, seed=1)
    film = micro.generate(PROMPT, seed=1, lora=[lora])
    assert not same(film, plain)
    assert film.meta["lora"] == [
        {"path": lora, "scale": 1.0, "fingerprint": film.meta["lora"][0]["fingerprint"]}
    ]
    weak = micro.generate(PROMPT, seed=1, lora=[f"{lora}:0.5"])
    assert not same(weak, film) and not same(weak, plain)
    halves = micro.generate(PROMPT, seed=1, lora=[(lora, 0.25), f"{lora}:0.75"])
    assert np.abs(halves.frames.astype(int) - film.frames).max() <= 1  # rounding
    assert same(micro.generate(PROMPT, seed=1), plain)
    jax.tree.map(np.testing.assert_array_equal, micro._adapted(), before)


def test_load_says_what_films_have_unless_they_say_otherwise(micro, micro_folder, lora):
    model = skyreels_jax.load(str(micro_folder), lora=[f"{lora}:0.5"])
    assert model.generate(PROMPT).meta["lora"][0]["scale"] == 0.5
    assert same(model.generate(PROMPT), micro.generate(PROMPT, lora=f"{lora}:0.5"))
    assert same(model.generate(PROMPT, lora=[]), micro.generate(PROMPT))


@pytest.mark.parametrize(
    ("value", "path", "scale"),
    [
        ("a.safetensors", "a.safetensors", 1.0),
        ("a.safetensors:0.8", "a.safetensors", 0.8),
        ("a.safetensors:-1", "a.safetensors", -1.0),
        ("a:b", "a:b", 1.0),
        ("a:nan", "a:nan", 1.0),
        (("a:2", 0.5), "a:2", 0.5),
        ("kept:3", "kept:3", 1.0),
    ],
)
def test_paths_and_scales(tmp_path, monkeypatch, value, path, scale):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "kept:3").touch()
    assert parse_lora(value) == Lora(path=str(tmp_path / path), scale=scale)


def test_refusals_come_before_any_film(micro, micro_folder, lora, tmp_path):
    other = write_lora(tmp_path / "other.safetensors", layer="transformer.blocks.{i}.attn3.to_q")
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes(b"no weights")
    for value, message in [
        (other, "4 unknown"),
        (damaged, "not a complete safetensors file"),
        (tmp_path / "absent.safetensors", "no such weight file"),
        ((lora, 1e6), "out of range; legal: -100 to 100"),
        (7, "not PATH, PATH:SCALE"),
    ]:
        with pytest.raises(UserError, match=message):
            micro.source.request(prompt=PROMPT, lora=[value])
        with pytest.raises(UserError, match=message):
            skyreels_jax.load(str(micro_folder), lora=[value])
