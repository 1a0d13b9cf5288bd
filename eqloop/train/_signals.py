"""SIGINT and SIGTERM, noted so that training can end after a whole step."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType


class Received:
    """The signal that was received, by its number; None before the first."""

    signal: int | None = None


@contextlib.contextmanager
def note_signals() -> Iterator[Received]:
    """Note the first SIGINT or SIGTERM instead of dying of it; the second one acts as usual."""
    received = Received()
    if threading.current_thread() is not threading.main_thread():
        yield received  # Python lets only the main thread handle signals
        return
    handlers = {name: signal.getsignal(name) for name in (signal.SIGINT, signal.SIGTERM)}

    def note(number: int, frame: FrameType | None) -> None:
        received.signal = number
        for name, handler in handlers.items():
            signal.signal(name, handler)

    for name in handlers:
        signal.signal(name, note)
    try:
        yield received
    finally:
        for name, handler in handlers.items():
            signal.signal(name, handler)
