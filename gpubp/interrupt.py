"""Ctrl-C where it may not strike at once: between two steps of training, after a compilation.

Signals are delivered to the main thread only; elsewhere these do nothing.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def deferred_interrupt() -> Iterator[Callable[[], bool]]:
    """Ctrl-C sets a flag that the loop polls at step boundaries; a second one acts at once."""
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False  # Python delivers signals to the main thread only
        return
    hit = False

    def handler(number: int, frame: Any) -> None:
        nonlocal hit
        hit = True
        signal.signal(signal.SIGINT, previous)

    # None is a handler that was not installed from Python, and cannot be put back.
    previous = signal.getsignal(signal.SIGINT) or signal.SIG_DFL
    signal.signal(signal.SIGINT, handler)
    try:
        yield lambda: hit
    finally:
        signal.signal(signal.SIGINT, previous)


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Ctrl-C in here is raised at the end of it, once, as the handler outside would have it."""
    if threading.current_thread() is not threading.main_thread():
        yield  # signals are delivered to the main thread only
        return
    before = signal.getsignal(signal.SIGINT)
    if before is None or before in (signal.SIG_IGN, signal.SIG_DFL):
        yield  # not Python's: nothing is raised
        return
    hits: list[tuple[int, Any]] = []
    signal.signal(signal.SIGINT, lambda number, frame: hits.append((number, frame)))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        if hits:
            before(*hits[0])  # type: ignore[operator]
