"""Executables on disk: found without tracing, only where nothing differs and nobody else wrote."""

import logging
import os
import pickle
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.compilation_cache import compilation_cache
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from skyreels_jax.core import naming, programs
from skyreels_jax.core.programs import Program, keep_programs
from skyreels_jax.core.shelf import Shelf

TRACED = []


def scaled(name, x, y):
    TRACED.append(name)
    return {"sum": (x["a"] @ y, None), "rest": x["a"] * 2}


def noted_call(function):
    return function()


def noted(x, noise):
    TRACED.append("noted")
    return x + noise


@pytest.fixture
def folder(kept_programs, monkeypatch):
    """Programs of this file are kept there, too."""
    monkeypatch.setattr(naming, "KNOWN", naming.KNOWN | {__name__.partition(".")[0]})
    TRACED.clear()
    return kept_programs


def entries(folder):
    return sorted(folder.glob("*.program"))


def run(name="first", rows=3, **options):
    jax.clear_caches()  # as another process begins
    x, y = jnp.arange(rows * 4.0).reshape(rows, 4), jnp.ones((4, 2))
    out = Program(scaled, static=[0], **options)(name, {"a": x}, y)
    np.testing.assert_array_equal(out["sum"][0], np.asarray(x) @ np.ones((4, 2)))
    np.testing.assert_array_equal(out["rest"], np.asarray(x) * 2)
    return out


def test_a_kept_program_is_not_traced_again(folder):
    run()
    run()  # another Program, as in another process
    assert TRACED == ["first"] and len(entries(folder)) == 1


def test_it_is_looked_for_once(folder, monkeypatch):
    program = Program(noted)
    reads, read = [], Shelf.read
    monkeypatch.setattr(Shelf, "read", lambda self, name: reads.append(name) or read(self, name))
    for value in range(3):
        assert program(jnp.float32(value), np.float32(1)) == value + 1
    assert len(reads) == 1


@pytest.mark.parametrize("change", ["static", "shape", "donated", "precision", "about"])
def test_anything_else_is_another_program(folder, change, monkeypatch):
    run()
    if change == "about":  # source, versions, flags
        monkeypatch.setattr(programs, "_about", lambda: "another version")
    options = {"static": {"name": "second"}, "shape": {"rows": 5}, "donated": {"donate": [2]}}
    if change == "precision":
        with jax.default_matmul_precision("bfloat16"):
            run()
    elif change == "donated":
        x, y = jnp.ones((4, 4)), jnp.ones((4, 4))
        Program(noted, donate=[1])(x, y)
        jax.clear_caches()
        Program(noted)(x, x)
        assert y.is_deleted() and not x.is_deleted()
    else:
        run(**options.get(change, {}))
    assert len(TRACED) == len(entries(folder)) == (3 if change == "donated" else 2)


def test_what_programs_depend_on(folder, monkeypatch):
    said = programs._about()
    for word in (jax.__version__, "xla_force_host_platform_device"):
        assert word in said
    monkeypatch.setenv("XLA_FLAGS", "--xla_other")
    assert programs._about.__wrapped__() != said
    assert programs._about.__wrapped__() == programs._about.__wrapped__()
    first, second = jax.devices()[:2]
    texts = [[first], [second], [first, second], [second, first]]
    texts = [programs._text_of_devices(devices) for devices in texts]
    assert len(set(texts)) == 4 and all(first.device_kind in text for text in texts)


def test_keys_of_random_numbers_and_donation(folder, monkeypatch):
    def draw(key, x):
        TRACED.append("draw")
        return x + jax.random.normal(key, x.shape)

    draw.__qualname__ = "drawn"
    monkeypatch.setattr(sys.modules[__name__], "drawn", draw, raising=False)
    expected = draw(jax.random.key(3), jnp.zeros(5))
    for _ in range(2):
        jax.clear_caches()
        x = jnp.zeros(5)
        np.testing.assert_allclose(Program(draw, donate=[1])(jax.random.key(3), x), expected)
        assert x.is_deleted()
    assert TRACED == ["draw"] * 2  # above, and once compiled


def test_divided_arrays(folder):
    mesh = Mesh(np.array(jax.devices()[::-1]).reshape(4, 2), ("a", "b"))
    place = NamedSharding(mesh, PartitionSpec("a"))
    for _ in range(2):
        jax.clear_caches()
        x = jax.device_put(jnp.arange(8.0), place)
        out = Program(noted)(x, jax.device_put(jnp.ones(8), place))
        np.testing.assert_array_equal(out, np.arange(8) + 1)
        assert out.sharding.is_equivalent_to(place, 1)
    jax.clear_caches()
    Program(noted)(jnp.arange(8.0), jnp.ones(8))
    second = jax.devices()[1]
    turned = NamedSharding(Mesh(mesh.devices[::-1], ("a", "b")), PartitionSpec("a"))
    out = Program(noted)(
        jax.device_put(jnp.arange(8.0), turned), jax.device_put(jnp.ones(8), turned)
    )
    np.testing.assert_array_equal(out, np.arange(8) + 1)
    assert out.sharding.is_equivalent_to(turned, 1)  # the same but for the order of devices
    for _ in range(2):
        jax.clear_caches()
        out = Program(noted)(jax.device_put(jnp.arange(8.0), second), jnp.ones(8))
        assert out.devices() == {second}
    assert TRACED == ["noted"] * 4 and len(entries(folder)) == 4


class Evil:
    def __reduce__(self):
        return os.mkdir, (os.environ["EVIL"],)


def test_what_others_wrote_is_not_opened(folder, tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("EVIL", str(tmp_path / "evil"))
    run()
    (path,) = entries(folder)
    ours, evil = path.read_bytes(), pickle.dumps(Evil())
    for content in (ours[:32] + evil, b"k" * 32 + evil, ours[:60] + b"x" + ours[61:], b""):
        TRACED.clear()
        path.write_bytes(content)
        with caplog.at_level(logging.WARNING):
            run()
        assert TRACED == ["first"]
        assert "not opened" in caplog.text
        assert not (tmp_path / "evil").exists()
        caplog.clear()
    run()
    assert TRACED == ["first"] and entries(folder) == [path]  # it was written anew


@pytest.mark.parametrize("what", ["no pickle", "no program", "other arguments"])
def test_what_does_not_load_is_compiled_and_written_anew(folder, monkeypatch, caplog, what):
    names, write = [], Shelf.write
    monkeypatch.setattr(
        Shelf,
        "write",
        lambda self, name, body: names.append((name, body)) or write(self, name, body),
    )
    run("second", rows=5)
    run()
    (_, other), (name, ours) = names
    body = {"no pickle": b"x", "no program": pickle.dumps((b"x", None)), "other arguments": other}
    write(Shelf(folder), name, body[what])
    TRACED.clear()
    with caplog.at_level(logging.WARNING):
        run()
    assert TRACED == ["first"] and "does not load" in caplog.text
    caplog.clear()
    run()
    assert TRACED == ["first"] and not caplog.text


def test_functions_of_one_name_are_two_programs(folder, monkeypatch):
    """`<function advance>` of a tree's structure says nothing of whose it is."""

    def made(module, power):
        def function(x):
            TRACED.append(module)
            return x**power

        function.__module__, function.__qualname__ = module, "power"
        monkeypatch.setitem(sys.modules, module, types.SimpleNamespace(power=function))
        return function

    for module, power in [("jax.a", 2), ("jax.b", 3)] * 2:
        jax.clear_caches()
        partial = jax.tree_util.Partial(made(module, power), jnp.float32(2))
        assert Program(noted_call)(partial) == 2.0**power
    assert TRACED == ["jax.a", "jax.b"] and len(entries(folder)) == 2


def test_what_has_no_text_is_not_kept(folder, caplog):
    power = 3

    def closure(x):
        return x**power

    with caplog.at_level(logging.INFO):
        assert Program(closure)(jnp.float32(2)) == 8
        assert (
            Program(scaled, static=[0])(object(), {"a": jnp.eye(2)}, jnp.eye(2))["sum"][0][0, 0]
            == 1
        )
    assert not entries(folder) and caplog.text.count("does not say all") == 2


@pytest.fixture
def jaxs_cache(folder, tmp_path):
    """A compilation cache of jax's with nothing in it, which keeps all."""
    names = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    before = {name: getattr(jax.config, name) for name in names}
    jax.config.update("jax_enable_compilation_cache", True)
    for name, value in zip(names, (str(tmp_path / "jax"), 0.0), strict=True):
        jax.config.update(name, value)
    compilation_cache.reset_cache()
    yield tmp_path / "jax"
    for name, value in before.items():
        jax.config.update(name, value)


def test_what_jaxs_cache_has_is_not_kept(folder, jaxs_cache):
    run()
    (path,) = entries(folder)
    assert any(jaxs_cache.iterdir())
    path.unlink()
    run()
    assert TRACED == ["first"] * 2 and not entries(folder)


def test_what_jax_has_already_is_not_kept(folder, jaxs_cache):
    x = jnp.arange(3.0)
    Program(noted)(x, x)
    entries(folder)[0].unlink()
    jax.clear_caches()
    program = Program(noted)
    keep_programs(None)
    program(x, x)  # from jax's cache: written again it could not be run
    keep_programs(folder)
    np.testing.assert_array_equal(program(x, x), 2 * x)
    assert not entries(folder)


def test_inside_another_program_it_is_a_part_of_that(folder):
    inner = Program(noted)
    assert jax.jit(lambda x: inner(x, x))(jnp.float32(2)) == 4
    assert not entries(folder)


def test_without_a_folder_it_is_jit():
    keep_programs(None)
    run()
