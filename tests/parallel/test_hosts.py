"""One of many processes, as seen by itself; for many together see tests/launch."""

import os
import signal
import sys

import jax
import pytest

from skyreels_jax.core.errors import UserError
from skyreels_jax.parallel import hosts


@pytest.fixture
def second(monkeypatch):
    """Makes this the second of two processes."""
    monkeypatch.setattr("jax.process_index", lambda: 1)
    monkeypatch.setattr("jax.process_count", lambda: 2)


@pytest.mark.parametrize(
    ("place", "told", "message"),
    [
        ("auto", {"count": 2, "index": 0}, "alone and auto take neither"),
        ("alone", {"index": 0}, "alone and auto take neither"),
        ("here:1", {}, "needs --host_count and --host_index"),
        ("here:1", {"count": 2}, "needs --host_count and --host_index"),
        ("here:1", {"count": 2, "index": 2}, "legal are HOST:PORT and an index from 0"),
        ("here", {"count": 2, "index": 1}, "legal are HOST:PORT"),
    ],
)
def test_what_does_not_go_together_is_refused(place, told, message):
    with pytest.raises(UserError, match=message):
        hosts.join(place, **told)


def test_sigterm_ends_a_process_that_has_joined(monkeypatch):
    """jax has taken the signal, and would do nothing."""
    before = signal.getsignal(signal.SIGTERM)

    def initialize(**_):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)

    monkeypatch.setattr("jax.distributed.initialize", initialize)
    try:
        hosts.join("here:1", count=2, index=1)
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    finally:
        signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize(
    ("place", "told", "method"),
    [("auto", {}, None), ("here:1", {"count": 2, "index": 1}, "deactivate")],
)
def test_named_hosts_ask_no_cluster(monkeypatch, place, told, method):
    """jax would ask one for the devices: in a SLURM step, one for each process."""
    asked = []
    monkeypatch.setattr("jax.distributed.initialize", lambda **said: asked.append(said))
    before = signal.getsignal(signal.SIGTERM)
    try:
        hosts.join(place, **told)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert [said.get("cluster_detection_method") for said in asked] == [method]


@pytest.mark.parametrize(("index", "order"), [(0, ["do", "wait"]), (1, ["wait", "do"])])
def test_the_first_does_it_before_the_others(monkeypatch, index, order):
    done = []
    monkeypatch.setattr("jax.process_index", lambda: index)
    monkeypatch.setattr(hosts, "wait", lambda _: done.append("wait"))
    with hosts.in_turn("data"):
        done.append("do")
    assert done == order
    with pytest.raises(UserError), hosts.in_turn("data"):  # the others are not left waiting
        raise UserError("no")
    assert done.count("wait") == 2


def test_only_the_first_prints(capsys, monkeypatch):
    monkeypatch.setenv("TQDM_DISABLE", "")
    with hosts.quiet():
        print("first")
    assert os.environ["TQDM_DISABLE"] == ""
    monkeypatch.setattr("jax.process_index", lambda: 1)
    with hosts.quiet():
        print("second")
        print("wrong", file=sys.stderr)
        assert os.environ["TQDM_DISABLE"] == "1"
    said = capsys.readouterr()
    assert (said.out, said.err) == ("first\n", "wrong\n")


def test_alone_an_error_is_an_error():
    with pytest.raises(UserError), hosts.ending_at_once():
        raise UserError("no")


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (UserError("no such\nfolder"), 2, "skyreels-jax: process 1 of 2: no such folder\n"),
        (jax.errors.JaxRuntimeError("closed by peer"), 1, "closed by peer; if another process is"),
        (KeyError("x"), 1, "Traceback"),
    ],
)
def test_among_many_an_error_ends_the_process(second, monkeypatch, capsys, error, code, said):
    def leave(code):
        raise SystemExit(code)

    monkeypatch.setattr(os, "_exit", leave)
    with pytest.raises(SystemExit) as left, hosts.ending_at_once():
        raise error
    assert left.value.code == code
    assert said in capsys.readouterr().err
