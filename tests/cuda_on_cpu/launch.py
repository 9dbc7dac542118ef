"""cupy.RawModule, with g++ behind it: kernels by name, launched on the imagined GPU.

A launch is checked as strictly as can be: every argument has the very type that the kernel
declares, the grid and the block fit, dynamic shared memory was asked for. CuPy checks none of the
arguments; a Python number goes as 64 bits and shifts those behind it.
"""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Sequence
from typing import Any

import numpy as np

from . import build
from .addresses import named_in
from .device import (
    CUDARuntimeError,
    KernelError,
    Memory,
    Stream,
    check_usable,
    current_stream,
    machine,
    submit,
)
from .guarded import untouched

# As runtime.cpp numbers them.
SCHEDULES = ("forward", "reverse", "greedy", "greedy-reverse", "random-1", "random-2")
_KNOWN_OPTIONS = ("-std=", "--std=", "-I", "-arch=", "--gpu-architecture=", "-lineinfo",
                  "--ptxas-options=", "-default-device", "--device-as-default-execution-space",
                  "--fmad=", "--restrict", "--extra-device-vectorization")  # fmt: skip


class RawModule:
    """As cupy.RawModule, for CUDA C text."""

    def __init__(
        self, *, code: str, options: Sequence[str] = (), backend: str = "nvrtc",
        name_expressions: Any = None, enable_cooperative_groups: bool = False,
        translate_cucomplex: bool = False, jitify: bool = False, path: Any = None,
    ) -> None:  # fmt: skip
        if isinstance(options, str) or any(not isinstance(option, str) for option in options):
            raise TypeError("options must be a tuple of strings")
        if path is not None or name_expressions is not None or backend != "nvrtc":
            raise NotImplementedError('only text with extern "C" kernels, through NVRTC')
        defines = []
        for option in options:
            if option.startswith("-D"):
                defines.append(option)
            elif not option.startswith(_KNOWN_OPTIONS):
                raise ValueError(f"option {option!r} is not one that is known here")
        self.code, self.options, self._defines = code, tuple(options), tuple(defines)
        self._cooperative = enable_cooperative_groups
        self._kernels: dict[str, build.Kernel] | None = None

    def compile(self, log_stream: Any = None) -> None:
        machine.check()
        machine.refuse_in_capture("loading a module")
        if self._kernels is None:
            self._kernels = build.compile_kernels(self.code, self._defines)

    def get_function(self, name: str) -> Any:
        if machine.collected is not None:
            machine.collected[self.code] = name
            machine.options[self.code] = self.options
            return lambda *args, **named: None
        self.compile()
        assert self._kernels is not None
        if name not in self._kernels:
            raise CUDARuntimeError("CUDA_ERROR_NOT_FOUND", 500, f"named symbol not found: {name}")
        return Function(name, self._kernels[name], self._cooperative)


class Function:
    """A kernel: ``function(grid, block, args, shared_mem=, stream=)``."""

    def __init__(self, name: str, kernel: build.Kernel, cooperative: bool) -> None:
        self.name, self._kernel, self._cooperative = name, kernel, cooperative
        self.max_dynamic_shared_size_bytes = 48 << 10
        self.attributes = {"max_threads_per_block": kernel.most_threads}

    def __call__(
        self, grid: Sequence[int], block: Sequence[int], args: Sequence[Any], *,
        shared_mem: int = 0, stream: Stream | None = None,
    ) -> None:  # fmt: skip
        machine.check()
        grid, block = self._shape(grid, block, shared_mem)
        values, memory = self._arguments(args)
        stream = current_stream() if stream is None else stream

        # A launch keeps nothing alive.
        touched = [weakref.ref(each) for each in memory]
        parameters = self._kernel.parameters
        of_structs = [i for i in range(self._kernel.count) if parameters[i].kind == b"V"]
        tables = [weakref.ref(args[i]._memory) for i in of_structs if hasattr(args[i], "_memory")]
        elsewhere = [weakref.ref(each) for each in memory if each.stream is not stream]

        def work() -> None:
            if any(each() is None for each in elsewhere):
                raise KernelError(
                    f"{self.name}: uses memory that was freed before its turn came, and that was "
                    "allocated on another stream, which may have given it to somebody else by then"
                )
            for table in tables:
                for named in named_in(table()) if table() is not None else ():
                    check_usable(named, stream, f"{self.name}, by a table of addresses")
            self._run(grid, block, values, shared_mem)
            for each in touched:
                if (still := each()) is not None and not untouched(still.beside):
                    raise KernelError(
                        f"{self.name}: something was written out of an array's bounds"
                    )

        submit(work, memory, self.name, stream)

    def _shape(self, grid: Any, block: Any, shared_mem: int) -> tuple[list[int], list[int]]:
        found = []
        for name, dims, limits in (
            ("grid", grid, (2**31 - 1, 65535, 65535)), ("block", block, (1024, 1024, 64)),
        ):  # fmt: skip
            dims = tuple(dims)
            if not 1 <= len(dims) <= 3 or any(int(n) != n for n in dims):
                raise TypeError(f"{self.name}: {name}={dims} must be one to three integers")
            dims = [int(n) for n in dims] + [1] * (3 - len(dims))
            if any(not 1 <= n <= limit for n, limit in zip(dims, limits, strict=True)):
                self._invalid(f"{name}={tuple(dims)}")
            found.append(dims)
        threads, most = int(np.prod(found[1])), self._kernel.most_threads
        multiprocessors = machine.of("multiprocessors")
        if self._cooperative and int(np.prod(found[0])) > multiprocessors:
            raise KernelError(
                f"{self.name}: {found[0]} blocks of a cooperative launch on "
                f"{multiprocessors} multiprocessors: where they do not fit, CuPy launches "
                "fewer"
            )
        if threads > most:
            self._invalid(f"{threads} threads a block, at most {most}")
        cluster = self._kernel.cluster
        capability = machine.of("compute_capability")
        if cluster > 1 and int(capability) < 90:
            self._invalid(f"no clusters on compute capability {capability}")
        if found[0][0] % cluster or cluster > 8:
            self._invalid(f"grid={tuple(found[0])} in clusters of {cluster}, which may be up to 8")
        if not 0 <= shared_mem <= self.max_dynamic_shared_size_bytes:
            self._invalid(
                f"{shared_mem} bytes of dynamic shared memory, at most "
                f"{self.max_dynamic_shared_size_bytes}: see max_dynamic_shared_size_bytes"
            )
        if self.max_dynamic_shared_size_bytes > 227 << 10:
            self._invalid("max_dynamic_shared_size_bytes is more than a GPU has")
        return found[0], found[1]

    def _invalid(self, why: str) -> None:
        raise CUDARuntimeError(
            "CUDA_ERROR_INVALID_VALUE", 1, f"invalid argument ({self.name}: {why})"
        )

    def _arguments(self, args: Sequence[Any]) -> tuple[list[bytes], list[Memory]]:
        """Each argument's bytes; it must be of the very type that the kernel declares."""
        parameters = self._kernel.parameters[: self._kernel.count]
        if len(args) != len(parameters):
            raise TypeError(f"{self.name} takes {len(parameters)} arguments, not {len(args)}")
        values, memory = [], []
        for i, (value, parameter) in enumerate(zip(args, parameters, strict=True)):
            pointer, kind = parameter.pointer != b"\0", parameter.kind.decode()
            wanted = f"{'a pointer to ' if pointer else ''}{kind}{parameter.bytes}"
            found = getattr(value, "dtype", type(value).__name__)
            if pointer:
                right = hasattr(value, "_memory") and (
                    kind == "V" or (found.itemsize == parameter.bytes
                                    and found.kind.replace("b", "u") == kind)
                )  # fmt: skip
                if right and not value.flags.c_contiguous:
                    raise ValueError(f"{self.name}: argument {i} is not C-contiguous")
            else:
                right = isinstance(value, np.generic) and (
                    kind == value.dtype.kind.replace("b", "u") and value.nbytes == parameter.bytes
                )
            if not right:
                raise TypeError(
                    f"{self.name}: argument {i} is {found}, but the kernel takes {wanted}"
                )
            if pointer:
                memory.append(value._memory)
                values.append(int(value.data.ptr).to_bytes(8, "little"))
            else:
                values.append(value.tobytes())
        return values, memory

    def _run(self, grid: list[int], block: list[int], values: list[bytes], shared_mem: int) -> None:
        schedule = machine.schedule
        if schedule == "all":
            schedule = SCHEDULES[machine.launches % len(SCHEDULES)]
        machine.launches += 1
        buffers = [ctypes.create_string_buffer(value, len(value)) for value in values]
        pointers = (ctypes.c_void_p * max(1, len(buffers)))(*map(ctypes.addressof, buffers))
        error = build.runtime().gpu_launch(
            ctypes.byref(self._kernel), (ctypes.c_uint * 3)(*grid), (ctypes.c_uint * 3)(*block),
            shared_mem, pointers, SCHEDULES.index(schedule), self._cooperative,
        )  # fmt: skip
        if error:
            raise KernelError(f"{error.decode()} (schedule {schedule})")
