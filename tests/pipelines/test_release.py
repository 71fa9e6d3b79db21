"""Models are gone when nobody names them any more, without Python's search for cycles."""

import gc
import itertools
import weakref

import jax
import pytest
from streams import PROMPT, SMALL

from skyreels_jax.pipelines.load import load


@pytest.fixture
def no_cycles():
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def held(model) -> list[weakref.ref]:
    leaves = jax.tree.leaves((model._adapted(), model._vae[1]))
    return [weakref.ref(thing) for thing in (model, model.source, *leaves)]


def generated(model):
    model.generate(PROMPT, num_frames=5, **SMALL)


def streamed(model):
    list(model.stream(PROMPT, num_frames=13, **SMALL))


def stopped(model):
    stream = model.stream(PROMPT, **SMALL)
    next(stream)
    model.resume(stream.state)


def begun(model):
    next(itertools.islice(model.films(model.source.request(prompt=[PROMPT] * 2)), 1))


@pytest.mark.parametrize("use", [None, generated, streamed, stopped, begun])
@pytest.mark.parametrize("kind", ["micro_folder", "forcing_folder", "causal_folder"])
def test_a_model_goes_with_its_last_name(kind, use, request, no_cycles):
    if kind == "micro_folder" and use in (streamed, stopped):
        pytest.skip("makes films in one go")
    model = load(str(request.getfixturevalue(kind)))
    things = held(model)
    if use is not None:
        use(model)
    del model
    alive = [type(thing()).__name__ for thing in things if thing() is not None]
    assert not alive
