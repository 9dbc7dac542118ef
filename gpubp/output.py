"""What the command line prints, and what becomes of a result that cannot be told.

An hour's training is worth more than its last line. So characters that the terminal does not have
are written as escapes, and where nothing more can be written (a full disk behind stdout) the
command goes on, and says at its end what happened.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from .printable import printable

_LONGEST = 2000  # characters of a sentence, whatever was quoted in it
# How streams meet characters that they do not have, the second in the locales C and POSIX: by an
# exception (and bytes of file names, which the second lets through, are for a terminal to escape).
_REFUSING = ("strict", "surrogateescape")
_failed: OSError | None = None  # what the first line that could not be printed met with


def say(text: str) -> None:
    """Print lines at once, also into a pipe; what files and users named is no command to a
    terminal."""
    global _failed
    if _failed is None:
        try:
            print("\n".join(map(printable, text.split("\n"))), flush=True)
        except BrokenPipeError:
            raise  # nobody reads: a command ends then
        except OSError as error:
            _failed = error
            discard_output()


def unsaid() -> OSError | None:
    """Why something that this process had to say could not be printed; None where all was."""
    return _failed


def discard_output() -> None:
    """Keep the interpreter from trying again to write what stdout still holds."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def complain(text: str) -> None:
    """One line on stderr, if there is one."""
    with suppress(OSError):  # there is nobody left to tell
        print(f"gpubp: {printable(text, _LONGEST)}", file=sys.stderr, flush=True)


class Unfailing:
    """A stream for what nobody must read, as a progress bar: where it cannot be written, it is
    not. It equals the stream it writes to."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def __eq__(self, other: object) -> bool:
        return bool(self._stream == other)

    def __hash__(self) -> int:
        return hash(self._stream)

    def write(self, text: str) -> None:
        with suppress(OSError):
            self._stream.write(text)

    def flush(self) -> None:
        with suppress(OSError):
            self._stream.flush()


@contextmanager
def speaking() -> Iterator[None]:
    """Streams that take every character, also where there are none (pythonw); warnings as one line
    each, without the place in the code, which no user of the command wrote."""
    global _failed
    _failed = None
    for name in ("stdout", "stderr"):
        stream: Any = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
        elif getattr(stream, "errors", None) in _REFUSING and hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")

    def show(message: Any, *rest: Any) -> None:
        complain(f"warning: {' '.join(str(message).split())}")

    with warnings.catch_warnings():
        warnings.showwarning = show  # type: ignore[assignment]
        yield
