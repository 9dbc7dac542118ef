"""Ctrl-C where it may not strike at once: between two steps of training, after a compilation.

Signals are delivered to the main thread only; elsewhere these do nothing. Signals that are ignored,
as those of a terminal under nohup, stay so.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

# What a system sends before it ends a process: where nobody else listens, as Ctrl-C. They may come
# twice, from a shell and from its terminal, and so never strike at once.
_ENDING = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]


class Terminated(KeyboardInterrupt):
    """A signal other than Ctrl-C's, ``number``, asked the process to end while it trained."""

    def __init__(self, number: int) -> None:
        self.number = number
        super().__init__(f"ended by {signal.Signals(number).name}")


class Flag:
    """Whether a signal came, when called; its ``number``, 0 before."""

    number = 0

    def __call__(self) -> bool:
        return self.number != 0

    def exception(self) -> KeyboardInterrupt:
        """What to raise for it."""
        return Terminated(self.number) if self.number in _ENDING else KeyboardInterrupt()


@contextmanager
def deferred_interrupt() -> Iterator[Flag]:
    """Ctrl-C, SIGTERM and SIGHUP set a flag that the loop polls at step boundaries, to raise
    ``KeyboardInterrupt``; a second Ctrl-C acts at once."""
    flag = Flag()
    if threading.current_thread() is not threading.main_thread():
        yield flag  # Python delivers signals to the main thread only
        return

    def handler(number: int, frame: Any) -> None:
        flag.number = flag.number or number
        if signal.SIGINT in before:
            signal.signal(signal.SIGINT, before[signal.SIGINT])

    # None is a handler that was not installed from Python, and cannot be put back.
    ctrl_c = signal.getsignal(signal.SIGINT) or signal.SIG_DFL
    before: dict[int, Any] = {} if ctrl_c == signal.SIG_IGN else {signal.SIGINT: ctrl_c}
    before |= {n: signal.SIG_DFL for n in _ENDING if signal.getsignal(n) == signal.SIG_DFL}
    try:
        for number in before:
            signal.signal(number, handler)
        yield flag
    except KeyboardInterrupt as error:
        if flag.number not in _ENDING or isinstance(error, Terminated):
            raise
        raise flag.exception() from None
    finally:
        for number, previous in before.items():
            signal.signal(number, previous)


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
