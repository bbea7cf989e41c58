"""Ctrl-C and SIGTERM as one thing: a KeyboardInterrupt in the main thread, once; the clean-up after it is not interrupted."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def interruptible() -> Iterator[None]:
    """Inside, SIGTERM acts as Ctrl-C does. Put it inside `ray.init`, which takes the handler of SIGTERM for itself."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in _SIGNALS}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, _once)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _once(number: int, frame: object) -> None:
    """Ray's job server asks a whole tree of processes to end: that reaches a run twice, by itself and through its supervisor."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    # Through SIGINT, so that an asyncio loop that runs meanwhile cancels its task in its own way.
    signal.raise_signal(signal.SIGINT)


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Inside, both signals are ignored: what is inside must be bounded in time."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, signal.SIG_IGN) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
