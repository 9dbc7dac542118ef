"""Device memory: how much is free, and what to say when it does not suffice."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import cupy as cp
import numpy as np

from gpubp.errors import DeviceMemoryError


def free_bytes() -> int:
    """What can be allocated, once CuPy has returned what it keeps for the next arrays."""
    cp.get_default_memory_pool().free_all_blocks()
    return int(cp.cuda.runtime.memGetInfo()[0])


@contextmanager
def allocating(what: str, needed: int, remedy: str) -> Iterator[None]:
    """Answer running out of device memory inside with the bytes needed and what to change."""
    try:
        yield
    except cp.cuda.memory.OutOfMemoryError as error:
        raise DeviceMemoryError(
            f"{what} need {needed:,} bytes on the GPU, which has {free_bytes():,} free: {remedy}"
        ) from error


def copied(array: Any, dtype: Any, what: str, remedy: str) -> Any:
    """The array on the device and of that dtype, copied there on CuPy's current stream."""
    array = np.ascontiguousarray(array, dtype)
    with allocating(what, array.nbytes, remedy):
        there = cp.empty(array.shape, array.dtype)
    there.set(array, stream=cp.cuda.get_current_stream())
    return there


def copied_numbers(numbers: Any, dtype: Any) -> Any:
    """The update rule's numbers of a piece's mini-batches, a row each: see :func:`copied`."""
    return copied(numbers, dtype, "the numbers of an epoch's steps", "take a larger batch_size")
