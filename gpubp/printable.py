"""Foreign text made fit to be printed: names, formulas and values that a file or a user chose.

A terminal obeys control characters, and turns text around at others; so in a sentence they stand
escaped, and what is long is cut.
"""

from __future__ import annotations

import reprlib

LONGEST = 80  # characters of one quoted value
_HUGE = 1e6  # from here on decimals say nothing


def printable(text: str, most: int | None = None) -> str:
    """``text`` with every character that is not printed escaped, as ``repr`` would; of more than
    ``most`` characters the first and the last."""
    text = _cut(text, most)
    if text.isprintable():
        return text
    return _cut("".join(c if c.isprintable() else ascii(c)[1:-1] for c in text), most)


def _cut(text: str, most: int | None) -> str:
    if most is None or len(text) <= most:
        return text
    head = (most - 3) * 2 // 3
    return f"{text[:head]}...{text[-(most - 3 - head) :]}"


_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = LONGEST


def brief(value: object) -> str:
    """``repr(value)`` in at most 80 characters, however deep or long it is."""
    return printable(_SHORT.repr(value), LONGEST)


def figure(value: float, digits: int = 6) -> str:
    """A cost with so many decimals; a huge one in powers of ten."""
    return f"{value:.{digits}f}" if abs(value) < _HUGE else f"{value:.{digits}g}"
