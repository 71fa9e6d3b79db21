"""Texts of functions and settings: alike in every process, and different for what is different."""

import dataclasses
import functools
import subprocess
import sys

import jax
import numpy as np
import pytest

from skyreels_jax.core import files, naming, tree
from skyreels_jax.core.naming import Vague, text_of


@dataclasses.dataclass(frozen=True)
class Solver:
    order: int = 2


@pytest.fixture(autouse=True)
def known(monkeypatch):
    monkeypatch.setattr(naming, "KNOWN", naming.KNOWN | {__name__.partition(".")[0]})


DIFFERENT = [
    None,
    0,
    0.0,
    False,
    "0",
    b"0",
    (),
    [],
    (0,),
    ((0,), 0),
    (0, (0,)),
    ("0, 0",),
    ("0", "0"),
    {"a": 1},
    {"a": "1"},
    np.dtype("int8"),
    Solver(),
    Solver(3),
    Solver,
    type(None),
    files.write_json,
    functools.partial(files.write_json, 1),
    functools.partial(files.write_json, value=1),
    jax.tree_util.Partial(files.write_json, 1),
    jax.nn.silu,
    jax.nn.relu,
    *(jax.sharding.Mesh(np.array(jax.devices()[i : i + 2]), ("a",)) for i in (0, 2)),
    jax.sharding.Mesh(np.array(jax.devices()[1::-1]), ("a",)),
    jax.sharding.Mesh(np.array(jax.devices()[:2]), ("b",)),
    jax.tree.structure((0, {"a": 0})),
    jax.tree.structure((0, {"b": 0})),
    jax.tree.structure((0, [0])),
    jax.tree.structure(jax.tree_util.Partial(jax.nn.silu, 0)),
    jax.tree.structure(jax.tree_util.Partial(jax.nn.relu, 0)),
]


def test_different_values_have_different_texts():
    texts = [text_of(value) for value in DIFFERENT]
    assert len(set(texts)) == len(texts)
    assert " at 0x" not in "".join(texts)


def test_functions_are_told_apart_by_their_modules(monkeypatch):
    assert text_of(files.write_json) == "skyreels_jax.core.files.write_json"
    first, second = (type("f", (), {"__module__": module.__name__}) for module in (files, tree))
    monkeypatch.setattr(files, "f", first, raising=False)
    monkeypatch.setattr(tree, "f", second, raising=False)
    assert first.__qualname__ == second.__qualname__ and text_of(first) != text_of(second)


def test_another_process_says_the_same():
    code = (
        "import jax, functools\nfrom skyreels_jax.core import files, naming\n"
        "made = jax.tree_util.Partial(jax.nn.silu, 0), functools.partial(files.write_json, 1)\n"
        "print(naming.text_of((jax.tree.structure(made), made[1], {'b': 1, 'a': 2})))"
    )
    made = jax.tree_util.Partial(jax.nn.silu, 0), functools.partial(files.write_json, 1)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == text_of((jax.tree.structure(made), made[1], {"b": 1, "a": 2}))


@pytest.mark.parametrize(
    "value",
    [
        pytest.param(lambda x: x, id="lambda"),
        pytest.param(object(), id="object"),
        pytest.param(object().__str__, id="method"),
        pytest.param(np.arange(3), id="array"),
        pytest.param(jax.grad(jax.nn.silu), id="wrapped"),
        pytest.param(pytest.raises, id="function not hashed"),
        pytest.param(jax.tree.structure(jax.tree_util.Partial(lambda x: x, 0)), id="tree"),
        pytest.param(functools.partial(files.write_json, object()), id="partial"),
    ],
)
def test_what_has_no_text_is_refused(value):
    with pytest.raises(Vague, match="does not say all"):
        text_of(value)
    with pytest.raises(Vague):
        text_of(("in something", {"a": value}))
