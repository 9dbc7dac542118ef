"""cupy.ndarray and pinned memory, on an imagined GPU.

As strict as CuPy where CuPy is: nothing converts to NumPy unasked, nothing mixes with NumPy arrays,
a reduction gives an array of no dimensions and not a number.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.lib.mixins import NDArrayOperatorsMixin

from . import device
from .device import Device, Memory, Stream, current_stream, machine, submit


class ndarray(NDArrayOperatorsMixin):  # CuPy's name
    """An array on the device: ``_array`` is a view of the bytes of ``_memory``."""

    def __init__(
        self, shape: Any, dtype: Any = float, memptr: Any = None, strides: Any = None,
        order: str = "C",
    ) -> None:  # fmt: skip
        shape = (shape,) if isinstance(shape, int | np.integer) else tuple(shape)
        dtype = np.dtype(dtype)
        count = int(np.prod(shape, dtype=object)) if shape else 1
        if memptr is None:
            self._memory = Memory(count * dtype.itemsize)
            start = 0
        else:
            self._memory = memptr.mem
            start = memptr.ptr - memptr.mem.ptr
        raw = self._memory.bytes[start : start + count * dtype.itemsize]
        if raw.nbytes != count * dtype.itemsize:
            raise ValueError("this array would reach beyond its memory")
        self._array = raw.view(dtype).reshape(shape, order=order)

    @classmethod
    def _view(cls, array: Any, memory: Memory) -> ndarray:
        self = cls.__new__(cls)
        self._array, self._memory = array, memory
        return self

    # What it is

    shape = property(lambda self: self._array.shape)
    dtype = property(lambda self: self._array.dtype)
    ndim = property(lambda self: self._array.ndim)
    size = property(lambda self: self._array.size)
    nbytes = property(lambda self: self._array.nbytes)
    itemsize = property(lambda self: self._array.itemsize)
    strides = property(lambda self: self._array.strides)
    flags = property(lambda self: self._array.flags)

    @property
    def device(self) -> Device:
        return Device(self._memory.device)

    @property
    def data(self) -> MemoryPointer:
        return MemoryPointer(self._memory, self._array.ctypes.data - self._memory.ptr)

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        described = self._array.__array_interface__
        return {name: described[name] for name in ("shape", "typestr", "data")} | {"version": 3}

    def __len__(self) -> int:
        return len(self._array)

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        raise TypeError(
            "Implicit conversion to a NumPy array is not allowed. "
            "Please use `.get()` to construct a NumPy array explicitly."
        )

    # To and from the host

    def get(
        self, stream: Stream | None = None, order: str = "C", out: Any = None, blocking: bool = True
    ) -> Any:
        machine.check()
        machine.refuse_in_capture("a copy to the host")
        stream = current_stream() if stream is None else stream
        if blocking:
            stream.synchronize()
            if out is None:
                return self._array.copy(order=order)
            out[...] = self._array
            return out
        if out is None or not _is_pinned(out):
            raise ValueError("a copy that does not block needs pinned memory for its result")
        stream.issue(lambda: out.__setitem__(Ellipsis, self._array))
        return out

    def set(self, arr: Any, stream: Stream | None = None) -> None:
        machine.check()
        machine.refuse_in_capture("a copy from the host")
        if not isinstance(arr, np.ndarray):
            raise TypeError(f"Only numpy.ndarray can be set to cupy.ndarray, not {type(arr)}")
        if arr.dtype != self.dtype:
            raise TypeError(f"{arr.dtype} array cannot be set to {self.dtype} array")
        if arr.shape != self.shape:
            raise ValueError(f"shape mismatch: {arr.shape} set to {self.shape}")
        if not self.flags.c_contiguous and not self.flags.f_contiguous:
            raise RuntimeError("cannot set to a non-contiguous array")
        # Ordinary memory is staged at once; pinned memory is read when the stream gets there.
        source = arr if _is_pinned(arr) else arr.copy()
        stream = current_stream() if stream is None else stream
        submit(lambda: self._array.__setitem__(Ellipsis, source), [self._memory], "set", stream)

    def item(self, *index: int) -> Any:
        return self.get().item(*index)

    def tolist(self) -> Any:
        return self.get().tolist()

    def __bool__(self) -> bool:
        return bool(self.get())

    def __int__(self) -> int:
        return int(self.get())

    def __float__(self) -> float:
        return float(self.get())

    def __index__(self) -> int:
        return int(self.get().__index__())

    def __format__(self, spec: str) -> str:
        return format(self.get(), spec)

    def __repr__(self) -> str:
        return repr(self.get())

    def __iter__(self) -> Iterator[ndarray]:
        return (self[i] for i in range(len(self)))

    def __reduce__(self) -> Any:
        return on_device, (self.get(),)

    # Computing

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **named: Any) -> Any:
        return compute(getattr(ufunc, method), inputs, named)

    def __getitem__(self, index: Any) -> ndarray:
        if _is_basic(index):  # a view: nothing happens on the device, and nobody waits
            parts = index if isinstance(index, tuple) else (index,)
            whole = parts if Ellipsis in parts else (*parts, ...)  # of no dimensions: still a view
            return ndarray._view(self._array[whole], self._memory)
        _ready(self)
        return on_device(self._array[_host_index(index)])

    def __setitem__(self, index: Any, value: Any) -> None:
        if isinstance(value, np.ndarray) and value.ndim:
            raise TypeError(f"Unsupported type {type(value)}")
        where = _host_index(index)
        memory = [self._memory]
        if isinstance(value, ndarray):
            memory.append(value._memory)
            value = value._array
        submit(lambda: self._array.__setitem__(where, value), memory, "copy", current_stream())

    def __getattr__(self, name: str) -> Any:
        if name not in _METHODS:
            raise AttributeError(f"the stand-in's ndarray has no {name!r}")
        return lambda *args, **named: compute(getattr(np.ndarray, name), (self, *args), named)

    @property
    def T(self) -> ndarray:
        return ndarray._view(self._array.T, self._memory)

    @property
    def real(self) -> ndarray:
        return self  # no complex number comes here

    def fill(self, value: Any) -> None:
        self[...] = value

    def copy(self, order: str = "C") -> ndarray:
        return compute(lambda a: a.copy(order), (self,), {})

    def reshape(self, *shape: Any, order: str = "C") -> ndarray:
        return self._same_bytes(self._array.reshape(*shape, order=order))

    def ravel(self, order: str = "C") -> ndarray:
        return self._same_bytes(self._array.ravel(order))

    def view(self, dtype: Any = None) -> ndarray:
        return ndarray._view(self._array.view(self.dtype if dtype is None else dtype), self._memory)

    def _same_bytes(self, array: Any) -> ndarray:
        if np.shares_memory(array, self._array) or not array.size:
            return ndarray._view(array, self._memory)
        _ready(self)
        return on_device(array)

    def astype(self, dtype: Any, order: str = "K", casting: Any = None, copy: bool = True) -> Any:
        if not copy and self.dtype == dtype:
            return self
        return compute(lambda a: a.astype(dtype), (self,), {})


_METHODS = {
    "all", "any", "argmax", "argmin", "argsort", "clip", "cumsum", "dot", "max", "mean", "min",
    "nonzero", "prod", "repeat", "round", "std", "sum", "swapaxes", "take", "transpose", "var",
}  # fmt: skip


class MemoryPointer:
    """An address inside an allocation."""

    def __init__(self, mem: Memory, offset: int) -> None:
        self.mem, self.ptr = mem, mem.ptr + offset

    def __add__(self, offset: int) -> MemoryPointer:
        return MemoryPointer(self.mem, self.ptr - self.mem.ptr + offset)


def on_device(array: Any) -> ndarray:
    """A new device array with these values."""
    array = np.asarray(array)
    result = ndarray(array.shape, array.dtype, order="C" if array.flags.c_contiguous else "F")
    result._array[...] = array
    if current_stream().is_null:
        machine.written += 1
        result._memory.written = machine.written
    return result


def _ready(*arrays: ndarray) -> None:
    """Before a computation on the current stream: all that it must wait for."""
    machine.check()
    machine.refuse_in_capture("an operation that the stand-in does not record")
    stream = current_stream()
    for array in arrays:
        device.check_written(array._memory, stream, "an array operation")
    stream.issue(lambda: None)
    stream.flush()


def _host(value: Any) -> Any:
    if isinstance(value, ndarray):
        return value._array
    if isinstance(value, np.ndarray):
        raise TypeError(f"Unsupported type {type(value)}")
    if isinstance(value, tuple | list):
        return type(value)(map(_host, value))
    return value


def _is_basic(index: Any) -> bool:
    """Whether NumPy and CuPy answer this index with a view."""
    parts = index if isinstance(index, tuple) else (index,)
    return all(
        part is None or part is Ellipsis or isinstance(part, slice | int | np.integer)
        for part in parts
    )


def _host_index(index: Any) -> Any:
    if isinstance(index, tuple):
        return tuple(map(_host_index, index))
    if isinstance(index, ndarray):
        _ready(index)
        return index._array
    return index


def _arrays(value: Any) -> Iterator[ndarray]:
    if isinstance(value, ndarray):
        yield value
    elif isinstance(value, tuple | list):
        for item in value:
            yield from _arrays(item)


def compute(function: Callable[..., Any], args: Any, named: dict[str, Any]) -> Any:
    """NumPy's function on the arrays' values; the result is on the device, also a single number."""
    _ready(*_arrays(args), *_arrays(tuple(named.values())))
    outs = named.get("out")
    result = function(*map(_host, args), **{name: _host(value) for name, value in named.items()})
    if outs is not None:
        out = outs[0] if isinstance(outs, tuple) else outs
        if current_stream().is_null:
            machine.written += 1
            out._memory.written = machine.written
        return out
    if isinstance(result, tuple | list):
        return type(result)(map(on_device, result))
    return on_device(result) if isinstance(result, np.ndarray | np.generic) else result


# Pinned memory

_PINNED: list[Any] = []


class PinnedMemoryPointer:
    """As cupy.cuda.PinnedMemoryPointer: a buffer on the host."""

    def __init__(self, size: int) -> None:
        self.array = np.full(size, 0xAD, np.uint8)
        _PINNED.append((self.array.ctypes.data, size))

    def __buffer__(self, flags: int) -> memoryview:
        return memoryview(self.array)

    @property
    def __array_interface__(self) -> Any:
        return self.array.__array_interface__


def alloc_pinned_memory(size: int) -> Any:
    machine.check()
    machine.refuse_in_capture("an allocation of pinned memory")
    pinned = PinnedMemoryPointer(size)
    return memoryview(pinned.array)  # np.frombuffer takes it, as it takes CuPy's pointer


def _is_pinned(array: Any) -> bool:
    start = array.ctypes.data
    return any(p <= start and start + array.nbytes <= p + size for p, size in _PINNED)
