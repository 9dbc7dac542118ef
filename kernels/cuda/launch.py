"""A compiled kernel with its launch shape: the one place where kernels are launched.

CuPy passes a bare Python number as 64 bits and would shift the arguments after it, so an int goes
as C's int, and every other scalar has to say its type.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gpubp.expression import Expression
from gpubp.kernels.cuda.source import compiled, source
from gpubp.kernels.cuda.tiling import Tile, choose_tile
from gpubp.rule import UpdateRule

BLOCK = 256  # threads of kernels that are no products
WARP = 32

Formulas = Mapping[str, Expression]


@dataclass(frozen=True)
class Kernel:
    """A function on the device, launched on CuPy's current stream.

    ``shared_bytes`` of dynamic shared memory a block; for more than 48 KiB CUDA wants to be asked.
    """

    function: Any
    threads: int
    shared_bytes: int = 0

    def __post_init__(self) -> None:
        if self.shared_bytes:
            self.function.max_dynamic_shared_size_bytes = self.shared_bytes

    def __call__(self, blocks: int, *arguments: Any) -> None:
        if not blocks:
            return
        given = [np.int32(a) if type(a) is int else a for a in arguments]
        self.function((blocks,), (self.threads,), tuple(given), shared_mem=self.shared_bytes)


@dataclass(frozen=True)
class Product(Kernel):
    """A kernel on ``tile.cuh`` or ``tile_mma.cuh``, a block a tile."""

    tile: Tile = field(kw_only=True)

    def product(self, rows: int, columns: int, *arguments: Any) -> None:
        """Launch it for a (rows, columns) product."""
        self(self.tile.blocks(rows, columns), *arguments)


def run_length(lines: Any, dtype: Any) -> int:
    """How many neighbours on a line of this (lines, n) array tile.cuh may read at once: as many as
    are 16 bytes in ``dtype``, if that divides n and the array begins at a multiple of it."""
    run = 16 // np.dtype(dtype).itemsize
    whole = lines.shape[1] % run == 0 and lines.data.ptr % (run * lines.itemsize) == 0
    return run if whole else 1


def load_kernel(
    stem: str, dtype: str, formulas: Formulas, threads: int = BLOCK,
    rule: UpdateRule | None = None, /, **constants: int | str,
) -> Kernel:  # fmt: skip
    """The kernel of ``stem``.cu, compiled when first asked for."""
    text = source(stem, dtype, formulas, rule, BLOCK=threads, **constants)
    return Kernel(compiled(text, stem), threads)


def load_product(
    stem: str, arithmetic: str, formulas: Formulas, size: tuple[int, int, int],
    rule: UpdateRule | None = None, /, **constants: int | str,
) -> Product:  # fmt: skip
    """The kernel of ``stem``.cu with the tile for a product of that (rows, columns, depth)."""
    in_runs = all(run != 1 for name, run in constants.items() if name.endswith("_RUN"))
    as_it_lies = not constants.get("GATHER") and constants.get("Input", "T") == "T"
    copied = arithmetic == "float32" and in_runs and as_it_lies
    tile = choose_tile(*size, arithmetic, copied=copied)
    text = source(stem, arithmetic, formulas, rule, TILE=tile.type, BLOCK=tile.threads, **constants)
    return Product(compiled(text, stem), tile.threads, tile=tile)
