"""Which allocation an address belongs to: for kernels that find their arrays in a table.

A table of addresses is bytes to CuPy and to the launch that gets it. So its words are looked up
when the kernel's turn comes: what they point into is used as an argument is.
"""

from __future__ import annotations

import bisect
import weakref
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from .device import Memory

_starts: list[int] = []
_found: dict[int, weakref.ref[Memory]] = {}


def register(memory: Memory) -> None:
    """Find it by its addresses from now on, as long as it lives."""
    start = memory.ptr
    if start not in _found:
        bisect.insort(_starts, start)
    reference = _found[start] = weakref.ref(memory)
    weakref.finalize(memory, _forget, start, reference)


def _forget(start: int, reference: weakref.ref[Memory]) -> None:
    if _found.get(start) is reference:  # nobody has been given the place since
        del _found[start]
        _starts.pop(bisect.bisect_left(_starts, start))


def at(address: int) -> Memory | None:
    """The allocation that this address lies in."""
    place = bisect.bisect_right(_starts, address) - 1
    if place < 0:
        return None
    memory = _found[_starts[place]]()
    inside = memory is not None and address < memory.ptr + memory.bytes.nbytes
    return memory if inside else None


def named_in(table: Memory) -> list[Memory]:
    """All allocations whose addresses stand in these bytes."""
    words = table.bytes[: table.bytes.nbytes // 8 * 8].view(np.uint64)
    return [memory for word in words.tolist() if (memory := at(word)) is not None]
