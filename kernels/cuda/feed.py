"""Where the examples of the next mini-batches lie: all on the device, or a window of them.

The kernels gather row i of a mini-batch as example ``order[first + i]`` of x and y, arrays on the
device. A feed owns these arrays, and of a weighted plan ``importance``, whose numbers stand in the
epoch's order; ``load`` makes the examples of a piece of it available, in the order of the stream.
"""

from __future__ import annotations

import warnings
from typing import Any

import cupy as cp
import numpy as np

from gpubp.kernels.cuda.memory import allocating, free_bytes

_SPARE = 0.9  # of the free memory that the data may take
_WINDOW_BYTES = 128 << 20


class Resident:
    """x and y stay on the device as they came; only the order of a piece is copied there."""

    def __init__(self, x: Any, y: Any, batch_size: int, dtype: Any) -> None:
        self.rows = -(-len(x) // batch_size) * batch_size  # an epoch at once
        with allocating(
            "the training data", x.nbytes + y.nbytes + 8 * self.rows,
            "train on fewer examples, or pass x as uint8",
        ):  # fmt: skip
            self.x, self.y = cp.asarray(x), cp.asarray(y)
            self.order = cp.empty(self.rows, np.int64)
            self.importance = _importance(self.rows, dtype)

    def load(self, order: Any, stream: Any, importance: Any = None) -> None:
        self.order[: len(order)].set(np.ascontiguousarray(order, np.int64), stream=stream)
        _set(self.importance, importance, stream)


class Streamed:
    """x and y stay on the host; a window of examples is gathered there, in the epoch's order, and
    copied from page-locked memory. While the device trains on a window, the next is gathered."""

    def __init__(self, x: Any, y: Any, batch_size: int, dtype: Any, window_bytes: int) -> None:
        self._host = (x, y)
        row_bytes = x[:1].nbytes + y[:1].nbytes
        self.rows = max(1, window_bytes // (row_bytes * batch_size)) * batch_size
        with allocating(
            f"{self.rows:,} examples of the training data", self.rows * (row_bytes + 8),
            "train with a smaller batch_size",
        ):  # fmt: skip
            self.x, self.y = (cp.empty((self.rows, *a.shape[1:]), a.dtype) for a in (x, y))
            self.order = cp.arange(self.rows, dtype=np.int64)
            self.importance = _importance(self.rows, dtype)
        self._pinned = [[_page_locked((self.rows, *a.shape[1:]), a.dtype) for a in (x, y)]
                        for _ in range(2)]  # fmt: skip
        self._copied = [cp.cuda.Event() for _ in range(2)]
        self._turn = 0

    def load(self, order: Any, stream: Any, importance: Any = None) -> None:
        _set(self.importance, importance, stream)
        self._turn = 1 - self._turn
        copied = self._copied[self._turn]
        copied.synchronize()  # the copy before last has left this buffer
        buffers = self._pinned[self._turn]
        for host, pinned, device in zip(self._host, buffers, (self.x, self.y), strict=True):
            gathered = pinned[: len(order)]
            np.take(host, order, axis=0, out=gathered, mode="clip")  # checked before; unbuffered
            device[: len(order)].set(gathered, stream=stream)
        copied.record(stream)


def _importance(rows: int, dtype: Any) -> Any:
    """Room for the importance of so many examples; without a dtype none is needed."""
    return cp.empty(0 if dtype is None else rows, np.float32 if dtype is None else dtype)


def _set(there: Any, importance: Any, stream: Any) -> None:
    if importance is not None:
        given = np.ascontiguousarray(importance, there.dtype)
        there[: len(given)].set(given, stream=stream)


def make_feed(x: Any, y: Any, batch_size: int, dtype: Any = None) -> Resident | Streamed:
    """Data on the device stays there; data on the host goes there if it fits, else in windows. Of
    weighted examples ``dtype`` is that of their importance."""
    if isinstance(x, cp.ndarray):
        return Resident(x, y, batch_size, dtype)
    y = y if isinstance(y, np.ndarray) else y.get()
    needed, free = x.nbytes + y.nbytes + 8 * len(x), free_bytes()
    if needed <= _SPARE * free:
        return Resident(x, y, batch_size, dtype)
    feed = Streamed(x, y, batch_size, dtype, min(_WINDOW_BYTES, free // 4))
    warnings.warn(
        f"the training data are {needed:,} bytes and the GPU has {free:,} free: they stay on the "
        f"host and are copied over in windows of {feed.rows:,} examples, which is slower",
        stacklevel=2,
    )
    return feed


def _page_locked(shape: tuple[int, ...], dtype: Any) -> Any:
    """An array that the device can copy from by itself while the host goes on."""
    count = int(np.prod(shape))
    memory = cp.cuda.alloc_pinned_memory(count * np.dtype(dtype).itemsize)
    return np.frombuffer(memory, dtype, count).reshape(shape)
