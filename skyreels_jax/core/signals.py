"""Signals that ask a long run to end: noted, for who works to end where nothing is lost."""

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from typing import Any


class Signals:
    """While it is open, SIGINT and SIGTERM are noted in `noted` and end nothing, but a second
    SIGINT interrupts at once (main thread only).

    said: printed to stderr when one comes.
    """

    def __init__(self, said: str):
        self.noted: int | None = None
        self._said = f"\n{said}\n".encode()
        self._old: dict = {}

    def __enter__(self) -> "Signals":
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._old[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: Any) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)

    def _note(self, number: int, _: Any) -> None:
        if self.noted is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.noted = number
        # Not print: a signal may come while something else is being printed.
        os.write(2, self._said)


@contextlib.contextmanager
def sigterm_raises() -> Iterator[None]:
    """Inside, SIGTERM raises `SystemExit` of 143 wherever the program is, as Ctrl-C raises
    `KeyboardInterrupt` (main thread only).
    """

    def end(number: int, _: Any) -> None:
        raise SystemExit(128 + number)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def sigterm_ends(code: int, said: str) -> Iterator[None]:
    """Inside, SIGTERM ends the program there and then, as it does by default, but with the exit
    code `code`, and with `said` on stderr; where a `Signals` is open, that has it (main thread
    only).
    """

    def ours(*_: Any) -> None: ...

    def watch() -> None:
        # A thread, for a handler waits for the main one, which may be in a compiler or in a barrier
        # for minutes.
        while number := os.read(reader, 1):
            if number[0] == signal.SIGTERM and signal.getsignal(signal.SIGTERM) is ours:
                os.write(2, f"\n{said}\n".encode())
                os._exit(code)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    watcher = threading.Thread(target=watch, daemon=True)
    before = signal.signal(signal.SIGTERM, ours), signal.set_wakeup_fd(writer)
    watcher.start()
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before[0])
        signal.set_wakeup_fd(before[1])
        os.close(writer)
        watcher.join()
        os.close(reader)
