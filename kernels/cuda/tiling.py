"""Which tile a product is cut into: the rule from its sizes to the constants of ``tile.cuh``.

A large tile reads less (BM + BN numbers for BM BN products) and a small one gives more blocks. A
chip has about a hundred multiprocessors, each of which wants a block. So: the largest tile that
makes a hundred blocks and of which neither side is twice the product's, else the smallest. The
shape follows from the sizes alone, not from the GPU at hand, and so does the order of every sum.

| tile | registers | threads a slice | slices |          |
|-------|------|----|----|--------------------------------------------------------|
| 64x64 | 8x8  | 64 | 4  | arithmetic: a number read serves 8 products                |
| 32x32 | 4x4  | 64 | 4  | the middle: weight gradients of 10^5 weights            |
| 16x16 | 2x2  | 64 | 4  |                                                         |
| 8x16  | 2x2  | 32 | 8  | latency: mini-batches of ten, hidden layers of a hundred |
| 4x8   | 2x2  | 8  | 32 | output layers of ten                                    |

On tensor cores a warp owns what is a thread's above, of at least 16x8 elements:

| tile  | a warp | warps a slice | slices |
|-------|--------|---|---|
| 64x64 | 64x32  | 2 | 4 |
| 32x32 | 32x16  | 2 | 4 |
| 16x16 | 16x16  | 1 | 8 |

The largest in float32 copies its operands past the registers where they lie as it wants them
(tile_async.cuh). All have 256 threads. Where depth gives a slice less than two k (on tensor cores
less than half a step of theirs) there are fewer slices.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

FILL = 100  # blocks that occupy a chip
_LEAST_THREADS = 128


@dataclass(frozen=True)
class Tile:
    """The constants of tile.cuh and tile_mma.cuh: elements a block and a thread (on tensor cores: a
    warp), groups of threads, k a stage."""

    bm: int
    bn: int
    tm: int
    tn: int
    slices: int
    bk: int
    precision: str = ""  # the name in mma.cuh of tensor cores' operands
    stages: int = 0  # of tile_async.cuh, which copies them; tile.cuh has two

    @property
    def threads(self) -> int:
        owners = self.bm // self.tm * (self.bn // self.tn) * self.slices
        return 32 * owners if self.precision else owners

    @property
    def type(self) -> str:
        """The type in CUDA C."""
        shape = f"{self.bm}, {self.bn}, {self.bk}, {self.tm}, {self.tn}, {self.slices}"
        if self.stages:
            return f"AsyncTile<{shape}, {self.stages}>"
        return f"MmaTile<{self.precision}, {shape}>" if self.precision else f"Tile<{shape}>"

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
# BK is for tf32, and twice that for bf16: 42 KiB of shared memory a block or less.
_MMA_TILES = (
    Tile(64, 64, 64, 32, 4, 32),
    Tile(32, 32, 32, 16, 4, 64),
    Tile(16, 16, 16, 16, 8, 64),
)
# For operands that lie in memory as they are multiplied: 38 KiB of shared memory a block.
COPIED = Tile(64, 64, 8, 8, 4, 32, stages=2)
_MMA = {"tf32": ("Tf32", 8), "bf16": ("Bf16", 16)}  # the name in mma.cuh, and k a step
_BYTES = {"float64": 8, "float32": 4, "tf32": 4, "bf16": 2}  # of an operand in shared memory


def choose_tile(
    rows: int, columns: int, depth: int, arithmetic: str, least_threads: int = _LEAST_THREADS,
    copied: bool = False,
) -> Tile:  # fmt: skip
    """The tile for a (rows, columns) product of that depth; ``copied`` if its operands can be: of
    float32, in runs of 16 bytes, where they are multiplied from."""
    precision, step = _MMA.get(arithmetic, ("", 1))
    for tile in _MMA_TILES if precision else _TILES:
        fits = tile.bm < 2 * rows and tile.bn < 2 * columns
        if fits and tile.blocks(rows, columns) >= FILL:
            break
    if copied and (tile.bm, tile.bn) == (COPIED.bm, COPIED.bn) and depth >= COPIED.bk:
        return COPIED
    tile = replace(tile, precision=precision)
    share = step // 2 if precision else 2
    while share * tile.slices > depth and tile.threads > least_threads:
        tile = replace(tile, slices=tile.slices // 2)
    most = tile.bk * 4 // _BYTES[arithmetic]
    least = max(8, step * tile.slices)  # a stage is fetched by eights and shared out evenly
    stages = -(-depth // most)
    return replace(tile, bk=min(most, -(-depth // (stages * least)) * least))
