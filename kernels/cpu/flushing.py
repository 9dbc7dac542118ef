"""Numbers below the smallest normal one count as 0 while a thread trains.

An optimizer's means of gradients that have become 0 shrink by a factor each step, and get there
after a few hundred, as on MNIST, whose borders are seldom lit. Then x86 takes many times as long
for each operation on them. Nothing is lost: such a number is far below a weight's last bit. GPUs do
the same in float32, and so does JAX on the CPU.
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
