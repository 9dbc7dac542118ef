"""How results look: numbers in few digits, tables in columns, arrays as plain lists."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np

from gpubp.printable import printable


def brief(values: Any, most: int = 6) -> str:
    """The values of a short array, or the range of a long one."""
    flat = np.ravel(values)
    if flat.size <= most:
        return " ".join(f"{v:+.4g}" for v in flat)
    return f"{flat.min():+.4g} to {flat.max():+.4g}"


def table(rows: Sequence[Sequence[str]], indent: str = "  ") -> str:
    """Rows of cells in aligned columns."""
    rows = [list(map(printable, row)) for row in rows]
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    lines = ("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)
    return "\n".join(indent + line for line in lines)


def plain(value: Any) -> Any:
    """``value`` as JSON can hold it: dataclasses as dicts, arrays as lists, NaN and infinity as
    None."""
    if is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, np.generic):
        return plain(value.item())
    return value if not isinstance(value, float) or np.isfinite(value) else None
