"""Entries on disk: whole, this user's alone, and not for ever."""

import logging
import multiprocessing
import os

import pytest

from skyreels_jax.core import shelf
from skyreels_jax.core.errors import UserError
from skyreels_jax.core.shelf import Shelf

NAMES = ["plain", "../up", "a/b\n\0", "é" * 1000, ""]


def test_any_text_is_a_name(tmp_path):
    here = Shelf(tmp_path / "entries")
    for name in NAMES:
        assert here.read(name) is None
        here.write(name, name.encode())
    assert [Shelf(tmp_path / "entries").read(name) for name in NAMES] == [
        name.encode() for name in NAMES
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["entries"]
    assert len(list((tmp_path / "entries").glob("*.program"))) == len(NAMES)


def test_what_is_damaged_or_anothers_is_not_given(tmp_path, caplog):
    here, stranger = Shelf(tmp_path / "ours"), Shelf(tmp_path / "theirs")
    here.write("name", b"body")
    here.write("other", b"body")
    stranger.write("name", b"evil")
    path, ours = here.path("name"), here.path("name").read_bytes()
    theirs = stranger.path("name").read_bytes()
    assert path.name != stranger.path("name").name  # in one folder they leave each other alone
    swapped = here.path("other").read_bytes()
    for content in (theirs, swapped, ours[:-1], ours + b"x", ours[:10], b""):
        path.write_bytes(content)
        with caplog.at_level(logging.WARNING):
            assert here.read("name") is None
        assert "not opened" in caplog.text and path.name in caplog.text
        caplog.clear()
    here.write("name", b"new")
    assert here.read("name") == b"new" and not caplog.text


def test_the_newest_entries_stay(tmp_path, monkeypatch):
    monkeypatch.setattr(shelf, "KEPT", 2)
    here = Shelf(tmp_path)
    for number, name in enumerate(["first", "second"]):
        here.write(name, b"")
        os.utime(here.path(name), (number, number))
    assert here.read("first") == b""  # reading is using
    here.write("third", b"")
    found = [here.read(name) for name in ("first", "second", "third")]
    assert found == [b"", None, b""]


def test_entries_that_others_remove_meanwhile_are_no_error(tmp_path, monkeypatch):
    here = Shelf(tmp_path)
    here.write("name", b"body")
    gone = tmp_path / "gone.program"
    monkeypatch.setattr(shelf.pathlib.Path, "glob", lambda *_: iter([gone, here.path("name")]))
    here.write("other", b"body")
    monkeypatch.undo()

    def removed(path):
        raise FileNotFoundError(path)

    monkeypatch.setattr(shelf.os, "utime", removed)
    assert here.read("other") == b"body"


def test_the_key_is_the_users_alone(tmp_path):
    Shelf(tmp_path)
    (key,) = tmp_path.iterdir()
    assert key.name == f"key-{os.getuid()}"
    assert key.stat().st_mode & 0o777 == 0o600 and len(key.read_bytes()) == 32
    before = key.read_bytes()
    Shelf(tmp_path)
    assert key.read_bytes() == before
    key.chmod(0o644)
    with pytest.raises(UserError, match="not a key that you alone can read and write; remove it"):
        Shelf(tmp_path)
    key.unlink()
    (tmp_path / "other").write_bytes(b"k" * 32)
    (tmp_path / "other").chmod(0o600)
    key.symlink_to(tmp_path / "other")
    with pytest.raises(UserError, match="cannot keep programs"):
        Shelf(tmp_path)
    with pytest.raises(UserError, match="cannot keep programs"):
        Shelf(tmp_path / "other" / "under a file")


def _key(folder, barrier, answers):
    barrier.wait(60)
    answers.put(Shelf(folder)._key)


def test_processes_that_begin_together_have_one_key(tmp_path):
    fork = multiprocessing.get_context("spawn")
    barrier, answers = fork.Barrier(3), fork.Queue()
    started = [
        fork.Process(target=_key, args=(tmp_path / "new", barrier, answers)) for _ in range(3)
    ]
    for process in started:
        process.start()
    keys = {answers.get(timeout=60) for _ in started}
    for process in started:
        process.join()
    assert len(keys) == 1 and [p.exitcode for p in started] == [0, 0, 0]
