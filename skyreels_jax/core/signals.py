"""Signals that ask a long run to end: noted, for who works to end where nothing is lost."""

import os
import signal
import threading
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
