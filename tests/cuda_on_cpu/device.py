"""One imagined GPU: its memory, streams, graphs and launches, on the CPU.

Everything happens at the last moment that CUDA allows. What is put into a stream waits there until
somebody synchronises; so a forgotten synchronise reads stale data here each time, and not one time
in a thousand. What CUDA refuses (work on another stream or a copy to the host while a stream is
captured, a launch that does not fit) and what it lets pass but should not be (memory that a graph
uses and nobody keeps, arrays written on the default stream and read on another before anyone has
waited) is an error here.
"""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from . import addresses
from .guarded import guarded_bytes

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
    memory: int = 80 << 30  # of all devices together
    multiprocessors: int = 8  # few: then each has several tiles, and there are fewer fibers
    second: Mapping[str, Any] = field(default_factory=dict)  # how cuda:1 differs from the others
    schedule: str = "greedy"  # of launch.SCHEDULES; "all" takes the next one each launch
    collected: dict[str, str] | None = None  # text -> kernel; then nothing is compiled or launched
    options: dict[str, tuple[str, ...]] = field(default_factory=dict)  # text -> RawModule's own
    current: int = 0  # the device
    used: int = 0
    launches: int = 0
    capturing: Stream | None = None
    written: int = 0  # counts writes on the default stream, and how many of them were waited for
    waited: int = 0

    def of(self, name: str, index: int | None = None) -> Any:
        """The compute capability or the multiprocessors of a device, by default the current one."""
        given = self.second if (self.current if index is None else index) == 1 else {}
        return given.get(name, getattr(self, name))

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
def imagined(*, free: int | None = None, **settings: Any) -> Iterator[Machine]:
    """The machine with these settings, for the length of a ``with`` block; ``free``: so many bytes
    of memory beside what is in use.

    In use is what somebody holds. Arrays that only a circle of references keeps alive are garbage,
    which Python collects when it likes; it is made to, so that ``free`` is the same each time.
    """
    if free is not None:
        gc.collect()
        settings["memory"] = machine.used + free
    before = {name: getattr(machine, name) for name in settings}
    try:
        for name, value in settings.items():
            setattr(machine, name, value)
        _lost.clear()
        yield machine
        if _lost:
            raise KernelError(_lost[0])
    finally:
        for name, value in before.items():
            setattr(machine, name, value)


class Memory:
    """Bytes on the device, of exactly the size asked for, full of NaN."""

    def __init__(self, nbytes: int) -> None:
        machine.check()
        machine.refuse_in_capture("an allocation")
        if machine.used + nbytes > machine.memory:
            raise OutOfMemoryError(nbytes, machine.used)
        self.device = machine.current
        self.bytes, self.beside = guarded_bytes(nbytes)
        self.bytes[: nbytes // 4 * 4].reshape(-1, 4)[...] = NAN_BYTES
        self.bytes[nbytes // 4 * 4 :] = 0xAD
        machine.used += nbytes
        self.stream = current_stream()  # which the pool gives it back to
        addresses.register(self)
        weakref.finalize(self, _released, nbytes, self.bytes)
        self.written = 0  # the machine's count at the last write on the default stream

    @property
    def ptr(self) -> int:
        return int(self.bytes.ctypes.data)


# What has been freed while work was still waiting in a stream, which may be to use it: CuPy's pool
# keeps a block for the stream that it was allocated on, whose next user comes after that work.
_lingering: list[Any] = []


def _released(nbytes: int, pages: Any) -> None:
    machine.used -= nbytes
    if any(stream.queue for stream in Stream._streams):
        _lingering.append(pages)


# Streams, events, graphs

_lost: list[str] = []  # what became of work that nobody waited for


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
        self.device = machine.current
        Stream._streams.add(self)

    def __del__(self) -> None:
        # A GPU would still do what waits here; of a stream that is gone, nobody here ever will.
        if getattr(self, "queue", None):
            _lost.append(f"{len(self.queue)} things were left in a stream that was dropped")

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
        if not any(stream.queue for stream in list(Stream._streams)):
            _lingering.clear()

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


def forget_work() -> None:
    """What a test has left behind in a stream is not the next one's."""
    for stream in list(Stream._streams):
        stream.queue.clear()
    _lingering.clear()
    _lost.clear()


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
    """As cupy.cuda.Device; the devices share the machine's memory."""

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
        return str(machine.of("compute_capability", self.id))

    @property
    def mem_info(self) -> tuple[int, int]:
        self._check()
        return machine.memory - machine.used, machine.memory

    @property
    def attributes(self) -> dict[str, int]:
        self._check()
        return {
            "MultiProcessorCount": machine.of("multiprocessors", self.id),
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
    if stream.recorded is not None:
        stream.recorded.append(Node(work, [weakref.ref(m) for m in memory], name))
        return
    if stream.is_null:
        machine.written += 1
        for m in memory:
            m.written = machine.written
    for m in memory:
        check_usable(m, stream, name)
    if stream.device != machine.current and not stream.is_null:
        raise KernelError(
            f"{name}: runs on device {machine.current}, in a stream of device {stream.device}"
        )
    stream.issue(work)


def check_usable(memory: Memory, stream: Stream, name: str) -> None:
    """Whether what runs on the current device, in this stream, may use that memory."""
    check_written(memory, stream, name)
    if memory.device != machine.current:
        raise KernelError(
            f"{name}: runs on device {machine.current} and uses memory of device {memory.device}"
        )
