"""The device never waits for the host: rows run ahead, frames come behind, text is read once."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial
from streams import OTHER, PROMPT, SMALL

from skyreels_jax.diffusion import sample
from skyreels_jax.diffusion.grids import synchronous
from skyreels_jax.diffusion.guidance import conditional
from skyreels_jax.pipelines import generate as parts
from skyreels_jax.pipelines import stream
from skyreels_jax.pipelines.stream import IN_FLIGHT, Shown

STEPS = 2


@pytest.fixture
def readings(monkeypatch):
    """The sides of all texts whose keys and values were computed."""
    found, compiled = [], parts.compiled_reading

    def counted(method, params, sides):
        found.append(len(sides))
        return compiled(method, params, sides)

    monkeypatch.setattr(parts, "compiled_reading", counted)
    return found


@pytest.fixture
def rows(monkeypatch):
    """A note for every row that was handed to the device."""
    found, compiled = [], sample.compiled_advance

    def counted(*args):
        found.append(args)
        return compiled(*args)

    monkeypatch.setattr(sample, "compiled_advance", counted)
    return found


def test_text_is_read_once_and_not_in_each_step(micro, readings, rows):
    micro.generate(PROMPT)
    assert (readings, len(rows)) == ([2], 2)
    micro.generate(PROMPT, guidance_scale=1)
    assert readings == [2, 1]


def test_text_is_read_once_per_prompt_and_not_in_each_window(forcing, readings):
    for _ in forcing.stream([PROMPT, OTHER], num_frames=25, **SMALL):
        pass
    assert readings == [2, 2]


@pytest.mark.parametrize("carry", ["pixels", "latents"])
def test_the_next_window_is_begun_before_frames_are_handed_over(forcing, rows, carry):
    stream = forcing.stream(PROMPT, num_frames=17, carry=carry, **SMALL)
    counted = []
    for _ in stream:
        counted.append(len(rows))
        assert stream.state is not None  # what it begins from is still there
    assert counted == [STEPS + 1, 2 * STEPS + 1, 3 * STEPS]


def test_progress_comes_when_a_row_is_done_and_the_next_is_under_way(rows):
    said = []
    x = jnp.ones((1, 2, 2, 2, 1))
    made = parts.denoise(
        conditional(Partial(zero_velocity), {}),
        x,
        synchronous(3),
        solver="unipc",
        keys=jax.random.split(jax.random.key(0), 1),
        progress=lambda count: said.append((count, len(rows))),
    )
    np.testing.assert_array_equal(parts.finished(made), x)
    assert said == [(1, 2), (1, 3), (1, 3)]


def zero_velocity(x, timestep):
    return jnp.zeros_like(x)


class Pixels:
    """Stands for an array on the device."""

    def __init__(self, number, events):
        self.number, self.events = number, events

    def copy_to_host_async(self):
        self.events.append(("copy", self.number))

    def __array__(self, *_, **__):
        self.events.append(("wait", self.number))
        return np.full((1, 2, 1, 1, 3), self.number, np.uint8)


def test_chunks_are_encoded_without_waiting_for_each(monkeypatch):
    events = []

    def encoded(video):
        events.append(("encode", video.shape[1]))
        return Pixels(len(events), events), None

    monkeypatch.setattr(stream, "compiled_encode", lambda video, cache: encoded(video))
    found = stream.encode_video.__wrapped__((), np.zeros((1, 9, 8, 8, 3), np.float32), temporal=4)
    assert events == [("encode", 1), ("encode", 4), ("encode", 4)] + [
        ("wait", number) for number in (1, 2, 3)
    ]
    np.testing.assert_array_equal(found[0, :, 0, 0, 0], [1, 1, 2, 2, 3, 3])


def test_frames_are_waited_for_two_chunks_later():
    events, shown = [], Shown()
    for number in range(4):
        Shown.add.__wrapped__(shown, Pixels(number, events))
    assert IN_FLIGHT == 2
    assert events == [("copy", 0), ("copy", 1), ("copy", 2), ("wait", 0), ("copy", 3), ("wait", 1)]
    np.testing.assert_array_equal(shown.frames()[:, 0, 0, 0], [0, 0, 1, 1, 2, 2, 3, 3])
