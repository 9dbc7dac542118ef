"""Which tile a product is cut into: the rule from its sizes to the constants of ``tile.cuh``.

A large tile reads less (BM + BN numbers for BM BN products) and a small one gives more blocks. A
chip has about a hundred multiprocessors, each of which wants a block. So: the largest tile that
makes a hundred blocks and of which neither side is twice the product's, else the smallest. The
shape follows from the sizes alone, not from the GPU at hand, and so does the order of every sum.

| tile | registers | threads a slice | slices |          |
|-------|------|----|----|--------------------------------------------------------|
| 64x64 | 8x8  | 64 | 4  | arithmetic: a number read serves 8 products, 4 of 8 reads wide |
| 32x32 | 4x4  | 64 | 4  | the middle: weight gradients of 10^5 weights            |
| 16x16 | 2x2  | 64 | 4  |                                                         |
| 8x16  | 2x2  | 32 | 8  | latency: mini-batches of ten, hidden layers of a hundred |
| 4x8   | 2x2  | 8  | 32 | output layers of ten                                    |

All have 256 threads. Where depth gives a slice less than two k there are fewer slices.
"""

from __future__ import annotations

from dataclasses import dataclass

FILL = 100  # blocks that occupy a chip
_LEAST_THREADS = 128


@dataclass(frozen=True)
class Tile:
    """The constants of tile.cuh: elements a block and a thread, k a stage, groups of threads."""

    bm: int
    bn: int
    tm: int
    tn: int
    slices: int
    bk: int

    @property
    def threads(self) -> int:
        return self.bm // self.tm * (self.bn // self.tn) * self.slices

    @property
    def constants(self) -> dict[str, int]:
        return {
            "BM": self.bm, "BN": self.bn, "BK": self.bk,
            "TM": self.tm, "TN": self.tn, "SLICES": self.slices,
        }  # fmt: skip

    def blocks(self, rows: int, columns: int) -> int:
        """Blocks for a product of that size, a tile each."""
        return -(-columns // self.bn) * -(-rows // self.bm)


# BK is for float32, and half of it for float64: 32 KiB of shared memory a block or less.
_TILES = (
    Tile(64, 64, 8, 8, 4, 16),
    Tile(32, 32, 4, 4, 4, 32),
    Tile(16, 16, 2, 2, 4, 64),
    Tile(8, 16, 2, 2, 8, 128),
    Tile(4, 8, 2, 2, 32, 256),
)


def choose_tile(rows: int, columns: int, depth: int, dtype: str) -> Tile:
    """The tile for a (rows, columns) product of that depth."""
    for tile in _TILES:
        fits = tile.bm < 2 * rows and tile.bn < 2 * columns
        if fits and tile.blocks(rows, columns) >= FILL:
            break
    slices = tile.slices
    while 2 * slices > depth and tile.threads // tile.slices * slices > _LEAST_THREADS:
        slices //= 2
    most = tile.bk if dtype == "float32" else tile.bk // 2
    step = max(8, slices)  # a stage is fetched by eights and shared out evenly
    stages = -(-depth // most)
    bk = min(most, -(-depth // (stages * step)) * step)
    return Tile(tile.bm, tile.bn, tile.tm, tile.tn, slices, bk)
