"""One imagined GPU: its memory, streams, graphs and launches, on the CPU.

Everything happens at the last moment that CUDA allows. What is put into a stream waits there until
somebody synchronises; so a forgotten synchronise reads stale data here each time, and not one time
in a thousand. What CUDA refuses (work on another stream or a copy to the host while a stream is
captured, a launch that does not fit) and what it lets pass but should not be (memory that a graph
uses and nobody keeps, arrays written on the default stream and read on another before anyone has
waited) is an error here.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

NAN_BYTES = np.array([0x7FF8DEAD], np.uint32).view(np.uint8)  # NaN as float32 and as float64


class CUDARuntimeError(RuntimeError):
    """An error by its CUDA name; ``status`` is CUDA's number."""

    def __init__(self, name: str, status: int, why: str) -> None:
        super().__init__(f"{name}: {why}")
        self.status = status


class OutOfMemoryError(MemoryError):
    """As cupy.cuda.memory.OutOfMemoryError."""

    def __init__(self, size: int, total: int, limit: int = 0) -> None:
        super().__init__(
            f"Out of memory allocating {size:,} bytes (allocated so far: {total:,} bytes)."
        )
        self._size, self._total, self._limit = size, total, limit


class KernelError(AssertionError):
    """A kernel that did what CUDA leaves undefined."""


@dataclass
class Machine:
    """What tests set before they run: how the machine is made and how launches are scheduled."""

    devices: int = 1
    driver: int = 13000  # 0: no driver is installed
    compute_capability: str = "90"
    memory: int = 80 << 30
    multiprocessors: int = 8  # few: then each has several tiles, and there are fewer fibers
    schedule: str = "greedy"  # of launch.SCHEDULES; "all" takes the next one each launch
    defines: tuple[str, ...] = ()  # added to every compilation: mutants
    collected: dict[str, str] | None = None  # text -> kernel; then nothing is compiled or launched
    current: int = 0  # the device
    used: int = 0
    launches: int = 0
    capturing: Stream | None = None
    written: int = 0  # counts writes on the default stream, and how many of them were waited for
    waited: int = 0

    def check(self) -> None:
        """Raise as the first CUDA call of a program does where there is no GPU."""
        if not self.driver:
            raise CUDARuntimeError(
                "cudaErrorInsufficientDriver", 35,
                "CUDA driver version is insufficient for CUDA runtime version",
            )  # fmt: skip
        if not self.devices:
            raise CUDARuntimeError("cudaErrorNoDevice", 100, "no CUDA-capable device is detected")

    def refuse_in_capture(self, what: str) -> None:
        """``what`` cannot be captured, and breaks the capture under way."""
        if self.capturing is not None:
            raise CUDARuntimeError(
                "cudaErrorStreamCaptureUnsupported", 900,
                f"operation not permitted when stream is capturing ({what})",
            )  # fmt: skip


machine = Machine()


@contextmanager
def imagined(**settings: Any) -> Iterator[Machine]:
    """The machine with these settings, for the length of a ``with`` block."""
    before = {name: getattr(machine, name) for name in settings}
    try:
        for name, value in settings.items():
            setattr(machine, name, value)
        yield machine
    finally:
        for name, value in before.items():
            setattr(machine, name, value)


class Memory:
    """Bytes on the device, of exactly the size asked for, full of NaN.

    What a kernel does beyond them must not reach this process: they end, to the 16 bytes that every
    array is aligned to, at a page that nobody may touch, and begin behind one. What is left of
    their own pages on either side is NaN, and ``check_bounds`` sees whether it still is. Under a
    sanitizer they come from malloc, whose every byte it watches."""

    def __init__(self, nbytes: int) -> None:
        machine.check()
        machine.refuse_in_capture("an allocation")
        if machine.used + nbytes > machine.memory:
            raise OutOfMemoryError(nbytes, machine.used)
        self.device = machine.current
        if _SANITIZED:
            self._pages, self._begin = np.empty(nbytes, np.uint8), 0
        else:
            self._pages = _between_guards(nbytes)
            self._begin = (self._pages.size - nbytes) // _ALIGNMENT * _ALIGNMENT
        self._end = self._begin + nbytes
        self.bytes = self._pages[self._begin : self._end]
        self.bytes[: nbytes // 4 * 4].reshape(-1, 4)[...] = NAN_BYTES
        self.bytes[nbytes // 4 * 4 :] = 0xAD
        machine.used += nbytes
        weakref.finalize(self, _released, nbytes)
        self.written = 0  # the machine's count at the last write on the default stream

    @property
    def ptr(self) -> int:
        return int(self.bytes.ctypes.data)

    def check_bounds(self, name: str) -> None:
        """Raise if something was written beside the array, as ``name`` was the last to do."""
        for beside in (self._pages[: self._begin], self._pages[self._end :]):
            if (beside != 0xFF).any():
                raise KernelError(f"{name}: something was written out of an array's bounds")


_SANITIZED = os.environ.get("GPUBP_CUDA_ON_CPU", "plain") != "plain"
_ALIGNMENT = 16  # of the longest reads and writes of a kernel
_libc = ctypes.CDLL(None, use_errno=True)


def _between_guards(nbytes: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """As many pages as these bytes need, full of NaN, with a page before and behind that ends any
    program that touches it."""
    page = mmap.PAGESIZE
    size = -(-max(nbytes, 1) // page) * page
    # Not shared: what a child of a fork writes is its own.
    mapped = mmap.mmap(-1, size + 2 * page, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    whole = np.frombuffer(mapped, np.uint8)  # keeps the mapping
    for guard in (whole.ctypes.data, whole.ctypes.data + page + size):
        if _libc.mprotect(ctypes.c_void_p(guard), ctypes.c_size_t(page), 0):
            raise OSError(ctypes.get_errno(), "mprotect failed")
    pages = whole[page : page + size]
    pages[: size - nbytes] = 0xFF
    pages[size - _ALIGNMENT :] = 0xFF
    return pages


def _released(nbytes: int) -> None:
    machine.used -= nbytes


# Streams, events, graphs


class Stream:
    """As cupy.cuda.Stream. The default stream acts at once; any other at the last moment."""

    null: Stream
    _streams: ClassVar[weakref.WeakSet[Stream]] = weakref.WeakSet()

    def __init__(
        self, null: bool = False, non_blocking: bool = False, ptds: bool = False,
        priority: int | None = None,
    ) -> None:  # fmt: skip
        self.is_null, self.non_blocking = null, non_blocking
        self.queue: list[Callable[[], None]] = []
        self.recorded: list[Node] | None = None
        self.ptr = 0 if null else id(self)
        self._before: list[Stream] = []
        Stream._streams.add(self)

    def __enter__(self) -> Stream:
        self._before.append(_Current.stream)
        _Current.stream = self
        return self

    def __exit__(self, *error: Any) -> None:
        _Current.stream = self._before.pop()

    def use(self) -> Stream:
        _Current.stream = self
        return self

    def flush(self) -> None:
        """Do all that waits in this stream."""
        while self.queue:
            self.queue.pop(0)()

    def synchronize(self) -> None:
        machine.refuse_in_capture("a synchronisation")
        self.flush()
        if self.is_null:
            machine.waited = machine.written
            _flush_blocking()

    @property
    def done(self) -> bool:
        return not self.queue

    def record(self, event: Event | None = None) -> Event:
        event = Event() if event is None else event
        event.record(self)
        return event

    def wait_event(self, event: Event) -> None:
        self.issue(event.synchronize)

    def issue(self, work: Callable[[], None]) -> None:
        """Put work into the stream."""
        if self.is_null:
            _flush_blocking()
            work()
        else:
            self.queue.append(work)

    def begin_capture(self, mode: Any = None) -> None:
        if self.is_null:
            raise RuntimeError("cannot capture on the default (legacy) stream")
        machine.refuse_in_capture("a capture inside another")
        self.recorded, machine.capturing = [], self

    def end_capture(self) -> Graph:
        if self.recorded is None:
            raise CUDARuntimeError("cudaErrorIllegalState", 401, "the stream is not capturing")
        graph = Graph(self.recorded)
        self.recorded, machine.capturing = None, None
        return graph

    def is_capturing(self) -> bool:
        return self.recorded is not None


class _Current:
    stream: Stream


Stream.null = _Current.stream = Stream(null=True)


def current_stream() -> Stream:
    return _Current.stream


def _flush_blocking() -> None:
    """The default stream and those that are not non_blocking wait for each other."""
    for stream in list(Stream._streams):
        if not stream.non_blocking:
            stream.flush()


def synchronize_device() -> None:
    machine.refuse_in_capture("a synchronisation")
    for stream in list(Stream._streams):
        stream.flush()
    machine.waited = machine.written


class Event:
    """As cupy.cuda.Event; time stands still."""

    def __init__(
        self, block: bool = False, disable_timing: bool = False, interprocess: bool = False
    ) -> None:
        self.stream, self.passed = Stream.null, True

    def record(self, stream: Stream | None = None) -> None:
        self.stream = current_stream() if stream is None else stream
        self.passed = False
        self.stream.issue(self._pass)

    def _pass(self) -> None:
        self.passed = True

    @property
    def done(self) -> bool:
        return self.passed

    def synchronize(self) -> None:
        while not self.passed:
            self.stream.queue.pop(0)()
        if self.stream.is_null:
            machine.waited = machine.written


class Device:
    """As cupy.cuda.Device; the devices are alike, and each has all of the machine's memory."""

    def __init__(self, device: int | None = None) -> None:
        self.id = machine.current if device is None else int(device)
        self._before: list[int] = []

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Device) and self.id == other.id

    def __hash__(self) -> int:
        return hash(self.id)

    def __int__(self) -> int:
        return self.id

    def _check(self) -> None:
        machine.check()
        if not 0 <= self.id < machine.devices:
            raise CUDARuntimeError("cudaErrorInvalidDevice", 101, "invalid device ordinal")

    def __enter__(self) -> Device:
        self._check()
        self._before.append(machine.current)
        machine.current = self.id
        return self

    def __exit__(self, *error: Any) -> None:
        machine.current = self._before.pop()

    def use(self) -> Device:
        self._check()
        machine.current = self.id
        return self

    def synchronize(self) -> None:
        self._check()
        synchronize_device()

    @property
    def compute_capability(self) -> str:
        self._check()
        return machine.compute_capability

    @property
    def mem_info(self) -> tuple[int, int]:
        self._check()
        return machine.memory - machine.used, machine.memory

    @property
    def attributes(self) -> dict[str, int]:
        self._check()
        return {
            "MultiProcessorCount": machine.multiprocessors,
            "MaxSharedMemoryPerBlockOptin": 227 << 10,
        }


@dataclass
class Node:
    """One thing that a graph does, and the memory it does it to, which it does not keep."""

    work: Callable[[], None]
    memory: list[weakref.ref[Memory]]
    name: str


class Graph:
    """As cupy.cuda.Graph."""

    def __init__(self, nodes: list[Node]) -> None:
        self.nodes = nodes

    def launch(self, stream: Stream | None = None) -> None:
        stream = current_stream() if stream is None else stream
        machine.refuse_in_capture("the launch of a graph")
        for node in self.nodes:
            for memory in node.memory:
                check_written(memory(), stream, node.name)
            stream.issue(lambda node=node: self._do(node))

    @staticmethod
    def _do(node: Node) -> None:
        if any(memory() is None for memory in node.memory):
            raise KernelError(f"{node.name}: this graph uses memory that has been freed")
        node.work()

    def upload(self, stream: Stream | None = None) -> None:
        """Nothing to do here."""


def check_written(memory: Memory | None, stream: Stream, name: str) -> None:
    """Whether what the default stream wrote there has been waited for."""
    if stream.non_blocking and memory is not None and memory.written > machine.waited:
        raise KernelError(
            f"{name}: runs on a non-blocking stream and uses an array that was written on the "
            "default stream, for which nobody has waited: synchronise the default stream first"
        )


def submit(work: Callable[[], None], memory: Sequence[Memory], name: str, stream: Stream) -> None:
    """Work that touches ``memory``: into the stream, or into the graph that it is capturing."""
    if machine.capturing is not None and stream is not machine.capturing:
        raise CUDARuntimeError(
            "cudaErrorStreamCaptureImplicit", 906,
            f"operation would make the legacy stream depend on a capturing blocking stream ({name} "
            "is on another stream than the one that is captured)",
        )  # fmt: skip

    def within_bounds(touched: Sequence[Memory]) -> None:
        work()
        for m in touched:
            m.check_bounds(name)

    def replayed() -> None:
        within_bounds([m for each in uses if (m := each()) is not None])

    uses = [weakref.ref(m) for m in memory]  # a graph does not keep what it uses
    if stream.recorded is not None:
        stream.recorded.append(Node(replayed, uses, name))
        return
    if stream.is_null:
        machine.written += 1
        for m in memory:
            m.written = machine.written
    for m in memory:
        check_written(m, stream, name)
        if m.device != machine.current:
            raise KernelError(
                f"{name}: runs on device {machine.current} and uses memory of device {m.device}"
            )
    # CuPy's pool gives a freed block to later work of its stream alone: it is there until then.
    stream.issue(lambda: within_bounds(memory))
