"""Bytes between pages that nobody may touch: a kernel that leaves its array ends there and then.

Without them a stray write hits whatever the process keeps beside the array, of the interpreter or
of NumPy, and what follows is anybody's guess, a loop without end included. An array ends at such a
page, up to the 15 bytes that keep its beginning at a multiple of 16. Those are watched, and what
lies between the page before it and its beginning.

Under a sanitizer an array is allocated exactly, by malloc, and watched to the byte.
"""

from __future__ import annotations

import ctypes
import mmap
from typing import Any

import numpy as np

from . import build

_PAGE = mmap.PAGESIZE
_ALIGNMENT = 16
_WATCHED = 0xA5
_libc = ctypes.CDLL(None, use_errno=True)
_NONE = 0  # PROT_NONE


def guarded_bytes(nbytes: int) -> tuple[Any, Any]:
    """(an array of so many bytes, the bytes on either side of it that must stay as they are)."""
    if build.MODE != "plain":
        return np.empty(nbytes, np.uint8), ()
    reach = -(-nbytes // _ALIGNMENT) * _ALIGNMENT
    room = -(-reach // _PAGE) * _PAGE
    # Not shared: what a child of a fork writes is its own.
    pages = mmap.mmap(-1, room + 2 * _PAGE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    whole = np.frombuffer(pages, np.uint8)  # keeps the pages; with it they go
    for guard in (whole.ctypes.data, whole.ctypes.data + _PAGE + room):
        if _libc.mprotect(ctypes.c_void_p(guard), ctypes.c_size_t(_PAGE), _NONE):
            raise OSError(ctypes.get_errno(), "mprotect failed")
    begin = _PAGE + room - reach
    beside = whole[_PAGE:begin], whole[begin + nbytes : begin + reach]
    for part in beside:
        part[...] = _WATCHED
    return whole[begin : begin + nbytes], beside


def untouched(beside: Any) -> bool:
    """Whether nobody wrote there."""
    return all(bool((part == _WATCHED).all()) for part in beside)
