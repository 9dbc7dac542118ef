"""Device memory: how much is free, and what to say when it does not suffice."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import cupy as cp

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
