"""Executables on disk: found without tracing, only where nothing differs and nobody else wrote."""

import logging
import os
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.compilation_cache import compilation_cache
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from skyreels_jax.core import programs
from skyreels_jax.core.errors import UserError
from skyreels_jax.core.programs import Program, Shelf, keep_programs

TRACED = []


def scaled(name, x, y):
    TRACED.append(name)
    return {"sum": (x["a"] @ y, None), "rest": x["a"] * 2}


def noted(x, noise):
    TRACED.append("noted")
    return x + noise


@pytest.fixture
def folder(tmp_path):
    """Programs are kept in a folder of their own, and none comes from the suite's cache."""
    jax.config.update("jax_enable_compilation_cache", False)
    compilation_cache.reset_cache()  # else the setting is not read again
    TRACED.clear()
    keep_programs(tmp_path / "programs")
    yield tmp_path / "programs"
    keep_programs(None)
    jax.config.update("jax_enable_compilation_cache", True)
    compilation_cache.reset_cache()


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
    if change == "about":  # source, versions, flags, devices
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
    for word in (jax.__version__, jax.devices()[0].device_kind, "xla_force_host_platform_device"):
        assert word in said
    monkeypatch.setenv("XLA_FLAGS", "--xla_other")
    assert programs._about.__wrapped__() != said
    assert programs._about.__wrapped__() == programs._about.__wrapped__()


def test_keys_of_random_numbers_and_donation(folder):
    def draw(key, x):
        TRACED.append("draw")
        return x + jax.random.normal(key, x.shape)

    draw.__qualname__ = "drawn"
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
    for _ in range(2):
        jax.clear_caches()
        out = Program(noted)(jax.device_put(jnp.arange(8.0), second), jnp.ones(8))
        assert out.devices() == {second}
    assert TRACED == ["noted"] * 3 and len(entries(folder)) == 3


class Evil:
    def __reduce__(self):
        return os.mkdir, (os.environ["EVIL"],)


def test_what_others_wrote_is_not_opened(folder, tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("EVIL", str(tmp_path / "evil"))
    run()
    (path,) = entries(folder)
    ours = path.read_bytes()
    stranger = Shelf(tmp_path / "elsewhere")  # with a key of its own
    stranger.write(path.stem, pickle.dumps(Evil()))
    theirs = (tmp_path / "elsewhere" / path.name).read_bytes()
    for content in (theirs, ours[:-1], ours[:10], b"", ours[:60] + b"x" + ours[61:]):
        TRACED.clear()
        path.write_bytes(content)
        with caplog.at_level(logging.WARNING):
            run()
        assert TRACED == ["first"]
        assert "not opened" in caplog.text
        assert not (tmp_path / "evil").exists()
        caplog.clear()
    run()
    assert TRACED == ["first"]  # it was written anew


def test_an_entry_under_another_name_is_not_opened(folder, caplog):
    run()
    run("second")
    first, second = entries(folder)
    second.write_bytes(first.read_bytes())
    TRACED.clear()
    with caplog.at_level(logging.WARNING):
        run()
        run("second")
    assert len(TRACED) == 1 and "not yours" in caplog.text


def test_the_key_is_the_users_alone(tmp_path):
    keep_programs(tmp_path)
    (key,) = tmp_path.glob("key-*")
    assert key.stat().st_mode & 0o777 == 0o600 and len(key.read_bytes()) == 32
    before = key.read_bytes()
    keep_programs(tmp_path)
    assert key.read_bytes() == before
    key.chmod(0o644)
    with pytest.raises(UserError, match="not a key that you alone can read and write; remove it"):
        keep_programs(tmp_path)
    key.unlink()
    key.symlink_to(tmp_path / "other")
    (tmp_path / "other").write_bytes(b"k" * 32)
    with pytest.raises(UserError, match="not a key that you alone"):
        keep_programs(tmp_path)
    keep_programs(None)
    with pytest.raises(UserError, match="cannot keep programs"):
        keep_programs(tmp_path / "other" / "under a file")


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
    assert not entries(folder) and caplog.text.count("do not say all") == 2


def test_what_jaxs_cache_has_is_not_kept(folder, monkeypatch):
    numbers = iter(range(10))
    hits = type("Hits", (), {"count": property(lambda self: next(numbers))})()
    monkeypatch.setattr(programs, "_hits", lambda: hits)
    run()
    assert not entries(folder)


def test_hits_are_counted():
    hits = programs._Hits()
    jax.monitoring.record_event("/jax/compilation_cache/cache_hits")
    jax.monitoring.record_event("/jax/compilation_cache/other")
    jax.monitoring.unregister_event_listener(hits._note)
    assert hits.count == 1


def test_the_newest_entries_stay(folder, monkeypatch):
    monkeypatch.setattr(programs, "KEPT", 2)
    for number, name in enumerate(["first", "second", "third"]):
        run(name)
        for path in entries(folder):
            os.utime(path, (number, number)) if path.stat().st_mtime > 1e6 else None
    run("second")  # reading is using
    run("fourth")
    TRACED.clear()
    for name in ("second", "fourth", "third"):
        run(name)
    assert TRACED == ["third"]


def test_inside_another_program_it_is_a_part_of_that(folder):
    inner = Program(noted)
    assert jax.jit(lambda x: inner(x, x))(jnp.float32(2)) == 4
    assert not entries(folder)


def test_without_a_folder_it_is_jit():
    keep_programs(None)
    run()
