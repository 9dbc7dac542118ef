"""A stand-in for ``cupy``: arrays on an imagined GPU, and kernels run by the fibers of runtime.cpp.

``with installed(): ...`` puts it where ``import cupy`` finds it. It has what gpubp uses, and is
strict where CuPy is, or should be: see ``arrays.py`` for arrays, ``device.py`` for streams and
graphs, ``launch.py`` for kernels.
"""

from __future__ import annotations

import importlib.machinery
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import scipy.special

from . import device
from .arrays import (
    MemoryPointer,
    PinnedMemoryPointer,
    alloc_pinned_memory,
    compute,
    ndarray,
    on_device,
)
from .device import Device, Stream, current_stream, machine
from .launch import RawModule

__version__ = "14.2.0"


# The module's functions


def asarray(
    a: Any, dtype: Any = None, order: str | None = None, *, blocking: bool = False
) -> ndarray:
    if isinstance(a, ndarray):
        return a if dtype is None or a.dtype == dtype else a.astype(dtype)
    machine.check()
    machine.refuse_in_capture("a copy from the host")
    host = np.asarray(a, dtype, order="F" if order == "F" else "C")
    if host.dtype.kind not in "biufc":
        raise TypeError(f"Unsupported dtype {host.dtype}")
    return on_device(host)


def array(object: Any, dtype: Any = None, copy: bool = True, order: str = "K") -> ndarray:
    found = asarray(object, dtype)
    return found.copy() if copy and found is object else found


def asnumpy(a: Any, stream: Any = None, order: str = "C", out: Any = None) -> Any:
    return a.get(stream, order, out) if isinstance(a, ndarray) else np.asarray(a)


def ascontiguousarray(a: Any, dtype: Any = None) -> ndarray:
    a = asarray(a, dtype)
    return a if a.flags.c_contiguous else a.copy()


def asfortranarray(a: Any, dtype: Any = None) -> ndarray:
    return compute(np.asfortranarray, (asarray(a, dtype),), {})


def empty(shape: Any, dtype: Any = float, order: str = "C") -> ndarray:
    return ndarray(shape, dtype, order=order)


def empty_like(a: ndarray, dtype: Any = None, shape: Any = None) -> ndarray:
    return empty(a.shape if shape is None else shape, a.dtype if dtype is None else dtype)


def full(shape: Any, fill_value: Any, dtype: Any = None) -> ndarray:
    result = empty(shape, np.asarray(fill_value).dtype if dtype is None else dtype)
    result.fill(fill_value)
    return result


def zeros(shape: Any, dtype: Any = float, order: str = "C") -> ndarray:
    return full(shape, 0, dtype)


def ones(shape: Any, dtype: Any = float) -> ndarray:
    return full(shape, 1, dtype)


def zeros_like(a: ndarray, dtype: Any = None) -> ndarray:
    return zeros(a.shape, a.dtype if dtype is None else dtype)


def full_like(a: ndarray, fill_value: Any, dtype: Any = None) -> ndarray:
    return full(a.shape, fill_value, a.dtype if dtype is None else dtype)


def from_dlpack(value: Any) -> ndarray:
    return asarray(np.from_dlpack(value))


def _created(function: Callable[..., Any]) -> Callable[..., ndarray]:
    return lambda *args, **named: asarray(function(*args, **named))


def _computed(function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *args, **named: compute(function, args, named)


def _device_count() -> int:
    machine.check()
    return machine.devices


def _driver_version() -> int:
    return machine.driver


def _properties(index: int) -> dict[str, Any]:
    Device(index)._check()
    major, minor = divmod(int(machine.of("compute_capability", index)), 10)
    return {
        "name": b"imagined GPU", "major": major, "minor": minor,
        "totalGlobalMem": machine.memory,
        "multiProcessorCount": machine.of("multiprocessors", index),
        "sharedMemPerBlockOptin": (227 if major >= 9 else 163) << 10,
    }  # fmt: skip


class MemoryPool:
    """As cupy.cuda.MemoryPool, without one: what is freed is free."""

    def free_all_blocks(self, stream: Any = None) -> None:
        machine.check()

    def used_bytes(self) -> int:
        return machine.used

    total_bytes = used_bytes


_COMPUTED = (
    "abs", "absolute", "add", "all", "any", "argmax", "argmin", "argsort", "broadcast_to",
    "ceil", "clip", "concatenate", "copysign", "cos", "cumsum", "divide", "dot", "equal",
    "exp", "expm1", "fabs", "floor", "greater", "hstack", "isfinite", "isinf", "isnan", "less",
    "log", "log1p", "logical_and", "logical_not", "logical_or", "matmul", "max", "maximum",
    "mean", "min", "minimum", "moveaxis", "multiply", "negative", "outer", "power", "prod",
    "repeat", "reshape", "sign", "sin", "sqrt", "square", "stack", "subtract", "sum", "take",
    "tanh", "tensordot", "transpose", "true_divide", "var", "vstack", "where",
)  # fmt: skip
_SAME = (
    "bool_", "dtype", "e", "euler_gamma", "finfo", "float16", "float32", "float64", "iinfo",
    "inf", "int16", "int32", "int64", "int8", "intp", "nan", "newaxis", "pi", "uint16",
    "uint32", "uint64", "uint8",
)  # fmt: skip


def _modules() -> dict[str, ModuleType]:
    def module(name: str, **names: Any) -> ModuleType:
        made = ModuleType(name, __doc__)
        made.__spec__ = importlib.machinery.ModuleSpec(name, None, is_package=True)
        made.__path__ = []
        vars(made).update(names)
        return made

    runtime = module(
        "cupy.cuda.runtime", CUDARuntimeError=device.CUDARuntimeError,
        getDeviceCount=_device_count, driverGetVersion=_driver_version,
        runtimeGetVersion=lambda: 13000, getDeviceProperties=_properties,
        getDevice=lambda: Device().use().id, deviceSynchronize=device.synchronize_device,
        streamCaptureModeGlobal=0, streamCaptureModeThreadLocal=1, streamCaptureModeRelaxed=2,
        memGetInfo=lambda: Device().mem_info,
    )  # fmt: skip
    memory = module("cupy.cuda.memory", OutOfMemoryError=device.OutOfMemoryError)
    driver = module("cupy.cuda.driver", CUDADriverError=device.CUDARuntimeError)
    nvrtc = module("cupy.cuda.nvrtc", getVersion=lambda: (13, 0))
    cuda = module(
        "cupy.cuda", runtime=runtime, memory=memory, driver=driver, nvrtc=nvrtc, Stream=Stream,
        Event=device.Event, Graph=device.Graph, Device=Device, MemoryPointer=MemoryPointer,
        get_current_stream=current_stream, alloc_pinned_memory=alloc_pinned_memory,
        is_available=lambda: bool(machine.driver and machine.devices),
        stream=SimpleNamespace(get_current_stream=current_stream, Stream=Stream),
        PinnedMemoryPointer=PinnedMemoryPointer,
    )  # fmt: skip
    names: dict[str, Any] = {name: _computed(getattr(np, name)) for name in _COMPUTED}
    names |= {name: getattr(np, name) for name in _SAME}
    names |= {name: _created(getattr(np, name)) for name in ("arange", "eye", "linspace")}
    names["linalg"] = SimpleNamespace(norm=_computed(np.linalg.norm))
    here = globals()
    names |= {
        name: here[name]
        for name in (
            "ndarray", "asarray", "array", "asnumpy", "ascontiguousarray", "asfortranarray",
            "empty", "empty_like", "full", "full_like", "zeros", "zeros_like", "ones",
            "from_dlpack", "__version__",
        )
    }  # fmt: skip
    pool = MemoryPool()
    cupy = module(
        "cupy", cuda=cuda, RawModule=RawModule, get_default_memory_pool=lambda: pool,
        get_default_pinned_memory_pool=lambda: pool, **names,
    )  # fmt: skip
    special = module(
        "cupyx.scipy.special",
        **{name: _computed(getattr(scipy.special, name)) for name in ("erf", "erfc", "expit")},
    )
    scipy_module = module("cupyx.scipy", special=special)
    cupyx = module("cupyx", scipy=scipy_module, empty_pinned=_empty_pinned)
    found = (cupy, cuda, runtime, memory, driver, nvrtc, cupyx, scipy_module, special)
    return {each.__name__: each for each in found}


def _empty_pinned(shape: Any, dtype: Any = float) -> Any:
    shape = (shape,) if isinstance(shape, int) else tuple(shape)
    nbytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
    return np.frombuffer(alloc_pinned_memory(nbytes), dtype).reshape(shape)


@contextmanager
def installed() -> Iterator[ModuleType]:
    """The stand-in as ``cupy``; gpubp's CUDA modules are imported anew, before and after."""
    own = [name for name in sys.modules if name.partition(".")[0] in ("cupy", "cupyx")]
    before = {name: sys.modules.pop(name) for name in own}
    _forget()
    modules = _modules()
    sys.modules.update(modules)
    try:
        yield modules["cupy"]
    finally:
        for name in modules:
            sys.modules.pop(name, None)
        sys.modules.update(before)
        _forget()
        device.forget_work()


def _forget() -> None:
    for name in [name for name in sys.modules if name.startswith("gpubp.kernels.cuda")]:
        del sys.modules[name]
