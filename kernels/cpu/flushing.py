"""Numbers below the smallest normal one count as 0 while a thread trains.

An optimizer's means of gradients that have become 0 shrink by a factor each step, and get there
after a few hundred. Then each operation on them takes x86 a hundred cycles: a step of Adam on
MNIST, whose borders are seldom lit, took 25 us instead of 17. Nothing is lost: such a number is
1e-31 of a weight's last bit. GPUs do the same in float32, and so does JAX on the CPU.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from gpubp.kernels.cpu.generated import load_compiled


@contextmanager
def flushing() -> Iterator[None]:
    """In here, in this thread."""
    mode = load_compiled("mode")
    before = mode.mode(-1)
    try:
        yield
    finally:
        mode.mode(before)
