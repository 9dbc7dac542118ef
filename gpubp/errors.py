"""The exceptions gpubp raises by name, and the sentence that helps with a misspelt one.

Every message says what is wrong, where, and what to do about it.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterable, Mapping

from .printable import brief, printable


class BackendUnavailable(RuntimeError):
    """A backend was asked for by name and cannot be had; the message gives reason and cure."""


class DeviceMemoryError(MemoryError):
    """The GPU's memory does not suffice; the message gives the bytes needed and what to change."""


class CheckpointError(OSError):
    """Training ended, well or by its ``__cause__``, and its checkpoint could not be written: the
    network in memory holds all of it."""

    def __init__(self, error: Exception) -> None:
        # What is wrong with the network itself no other place cures.
        cure = ": save it elsewhere with net.save(path)" if isinstance(error, OSError) else ""
        super().__init__(f"{error}; the network in memory holds all of the training{cure}")
        self.reason = error
        self.errno = getattr(error, "errno", None)

    def __reduce__(self) -> tuple[object, ...]:
        return (type(self), (self.reason,))


class IntensityWarning(UserWarning):
    """Inputs look like images on the scale of bytes, 0 to 255, that nobody divides by 255."""


class DataFormatError(ValueError):
    """A file does not hold what its format promises.

    Attributes: ``file`` (path), ``offset`` (byte offset in the decompressed content, or ``None``
    where an offset means nothing), ``expected`` and ``found`` (short descriptions).
    """

    def __init__(
        self,
        file: str | os.PathLike[str],
        *,
        expected: str,
        found: str,
        offset: int | None = None,
    ) -> None:
        self.file = os.fspath(file)
        self.offset = offset
        self.expected = printable(expected)
        self.found = printable(found)
        where = printable(self.file) if offset is None else f"{printable(self.file)}, byte {offset}"
        super().__init__(f"{where}: expected {self.expected}, found {self.found}")

    def __reduce__(self) -> tuple[object, ...]:
        # Exceptions pickle by positional arguments; ours are keywords.
        return (_rebuild_format_error, (self.file, self.expected, self.found, self.offset))


def _rebuild_format_error(
    file: str, expected: str, found: str, offset: int | None
) -> DataFormatError:
    return DataFormatError(file, expected=expected, found=found, offset=offset)


_LONG_STEP = 1e3  # of a weight, which is of the size of 1


class DivergenceError(ArithmeticError):
    """Training left the finite numbers; the network keeps the last finite weights.

    Attributes: ``epoch`` and ``step`` (from 0: the mini-batch whose cost or update was not
    finite) and ``layer`` (the first layer l, counted from 2 as in the equations, that was not
    finite; ``None`` where every z and a was finite but the cost was not).
    """

    def __init__(
        self, epoch: int, step: int, layer: int | None, learning_rate: float,
        l2: float = 0.0, l1: float = 0.0,
    ) -> None:  # fmt: skip
        self.epoch = epoch
        self.step = step
        self.layer = layer
        self.learning_rate = learning_rate
        self._penalties = l2, l1
        place = "the cost" if layer is None else f"layer {layer}"
        cure = f"a learning rate below {learning_rate:g}"
        # Such a step takes a weight beyond 0 to one as large or larger on the other side.
        if learning_rate * l2 >= 2:
            cure = f"an l2 below {l2:g}, as a step multiplies weights by 1 - eta l2"
        elif learning_rate * l1 >= _LONG_STEP:
            cure = f"an l1 below {l1:g}, as a step moves weights by eta l1"
        super().__init__(
            f"training diverged in epoch {epoch}, step {step}: {place} is no longer finite; the "
            f"last finite weights are kept: try {cure}"
        )

    def __reduce__(self) -> tuple[object, ...]:
        return (
            type(self), (self.epoch, self.step, self.layer, self.learning_rate, *self._penalties)
        )  # fmt: skip


def is_name(text: str) -> bool:
    """Whether ``text`` is meant as a name, "ReLU" or "cross-entropy", not as a formula."""
    return re.fullmatch(r"\s*|[A-Za-z_]\w+([ -]\w+)*", text) is not None


def unknown(
    what: str, name: object, options: Iterable[str], elsewhere: Mapping[str, str] | None = None
) -> ValueError:
    """A ``ValueError`` that names the nearest of ``options``: ``raise unknown("cost", ...)``.

    ``elsewhere`` holds what other libraries call these, in small letters and digits alone, and what
    to take instead: an option, or a clause that says it. "MSELoss" and "mse_loss" are "mse" too.
    """

    def plain(text: object) -> str:
        return re.sub("[ -]", "_", str(text)).casefold()

    bare = re.sub(r"[\W_]", "", str(name)).casefold()
    for key in (bare, bare.removesuffix("loss")):
        if elsewhere and (meant := elsewhere.get(key)):
            hint = meant if " " in meant else f"did you mean {meant!r}?"
            return ValueError(f"unknown {what} {brief(name)}: {hint}")
    known = {plain(option): option for option in sorted(options)}
    near = difflib.get_close_matches(plain(name), known, n=1, cutoff=0.5)
    others = ", ".join(known.values())
    hint = f"did you mean {known[near[0]]!r}?" if near else f"choose one of {others}"
    return ValueError(f"unknown {what} {brief(name)}: {hint}")
