"""Models are gone when nobody names them any more, without Python's search for cycles."""

import gc
import itertools
import weakref

import jax
import pytest
from runs import save, trained
from streams import PROMPT, SMALL, picture

from skyreels_jax.pipelines.load import load
from skyreels_jax.testing.micro import write_micro_model


@pytest.fixture(scope="module")
def image_folder(tmp_path_factory):
    return write_micro_model(tmp_path_factory.mktemp("image"), image=True)


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory, micro_folder):
    run = tmp_path_factory.mktemp("runs") / "run"
    save(run, 3, trained(), None, vae=micro_folder / "vae")
    return run


@pytest.fixture
def no_cycles():
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def held(model) -> list[weakref.ref]:
    leaves = jax.tree.leaves((model._adapted(), model._vae[1], model._image_encoder or ()))
    leaves = [leaf for leaf in leaves if isinstance(leaf, jax.Array)]
    return [weakref.ref(thing) for thing in (model, model.source, *leaves)]


def generated(model):
    image = picture(0) if model.source.takes_image else None
    model.generate(PROMPT, image=image, num_frames=5, **SMALL)


def streamed(model):
    list(model.stream(PROMPT, num_frames=13, **SMALL))


def stopped(model):
    stream = model.stream(PROMPT, **SMALL)
    next(stream)
    model.resume(stream.state)


def failed(model):
    """The second window cannot begin, and nobody asks for it."""

    def told(window):
        if window.index:
            raise MemoryError
        return conditions(window)

    stream = model.stream(PROMPT, **SMALL)
    conditions = stream._films.conditions
    object.__setattr__(stream._films, "conditions", told)
    next(stream)


def begun(model):
    next(itertools.islice(model.films(model.source.request(prompt=[PROMPT] * 2)), 1))


@pytest.mark.parametrize(
    ("kind", "use"),
    [
        *itertools.product(
            ["forcing_folder", "causal_folder"], [None, generated, streamed, stopped, failed, begun]
        ),
        *itertools.product(["micro_folder", "image_folder", "run_folder"], [None, generated]),
    ],
)
def test_a_model_goes_with_its_last_name(kind, use, request, no_cycles):
    model = load(str(request.getfixturevalue(kind)))
    things = held(model)
    if use is not None:
        use(model)
    del model
    alive = [type(thing()).__name__ for thing in things if thing() is not None]
    assert not alive
