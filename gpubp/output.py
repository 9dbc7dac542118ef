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
        elif getattr(stream, "errors", None) == "strict" and hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")

    def show(message: Any, *rest: Any) -> None:
        complain(f"warning: {' '.join(str(message).split())}")

    with warnings.catch_warnings():
        warnings.showwarning = show  # type: ignore[assignment]
        yield
