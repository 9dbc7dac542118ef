"""digits28: handwritten-looking digits at MNIST's size, drawn by formula, no download.

Each digit has a few ways of being written, each a list of pen strokes through control points. A
sample jitters the control points, bends the plane with a smooth random displacement, applies a
random affine map, scales the ink to MNIST's 20 x 20 box, puts its centre of mass at the centre of
the 28 x 28 image and rasterises it with a pen of random width. All randomness is drawn here, on
the host; the compiled renderer is a pure function of it, one row at a time, in plain IEEE
arithmetic, so the bytes depend on ``rng`` alone.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from gpubp.arrays import as_generator, check_count

Pair = tuple[NDArray[np.uint8], NDArray[np.int64]]

# How each digit is written: ways separated by "|", strokes by "/", points "x,y" in percent of the
# digit's height (x to the right, y down), "!" after a point where the pen turns sharply. Between
# points the pen follows a Catmull-Rom spline.
_HANDWRITING: Final = {
    0: """30,0 8,18 0,50 10,86 30,100 52,82 60,48 50,14 28,0 12,12
        | 42,6 20,4 4,30 4,68 22,98 46,90 58,55 50,18 30,2 16,10
        | 24,2 6,30 10,78 34,99 58,70 54,24 30,1 12,12""",
    1: """31,0 30,50 30,100
        | 34,0 31,50 24,100
        | 14,24 31,0! 30,50 30,100
        | 12,20 30,0! 30,50 30,99 / 8,100 30,99 52,100""",
    2: """4,22 14,4 34,0 52,14 50,38 28,68 2,97! 30,98 60,96
        | 4,22 18,2 44,4 54,24 40,54 16,88 5,94 3,83 14,80 34,92 62,95
        | 4,12 28,1 52,12 45,38 22,70 3,97! 30,95 58,98
        | 2,30 10,8 32,0 50,12 48,34 30,62 4,90 2,100! 24,92 44,98 64,88""",
    3: """6,12 26,0 50,10 46,34 22,46! 48,54 58,76 40,98 4,90
        | 6,4 30,3 52,2! 38,22 24,42! 50,54 56,78 34,100 2,90
        | 6,14 24,0 48,8 46,34 26,46 18,49 28,51 54,62 54,88 28,100 2,88
        | 4,8 30,0 48,16 36,38 16,46! 44,50 54,68 48,90 22,100 2,92""",
    4: """12,2 6,30 4,54! 30,54 60,50 / 46,8 44,50 40,100
        | 42,0 22,30 2,64! 30,64 60,62 / 42,2 42,50 41,100
        | 8,0 5,32 20,48 46,42 / 50,0 48,50 45,100
        | 14,4 8,40! 28,44 54,38 / 48,2 46,40 48,100""",
    5: """52,2 32,3 14,2! 12,22 10,42! 34,36 54,54 52,82 30,100 2,90
        | 12,4 11,24 10,44! 32,36 54,52 50,86 26,100 2,88 / 12,4 34,3 58,0
        | 54,4 22,4 12,24 20,42 46,52 54,76 32,100 4,92
        | 50,0 30,4 18,4! 14,40! 40,46 46,70 34,92 4,100""",
    6: """42,0 18,22 4,56 8,90 30,100 50,84 46,60 26,54 8,70
        | 30,0 10,36 4,72 18,98 42,94 48,72 32,58 10,72
        | 24,0 8,46 4,84 24,100 44,88 40,66 20,64 6,82
        | 54,6 26,10 6,46 6,82 26,100 52,88 54,64 34,52 10,62""",
    7: """2,6 30,5 56,2! 38,44 22,100
        | 2,6 30,5 56,2! 36,46 24,100 / 14,52 32,49 52,46
        | 4,20 6,4! 30,6 56,3! 36,50 26,100
        | 2,14 20,2 54,6 40,50 24,100
        | 4,4 28,8 50,4! 48,50 44,100""",
    8: """50,12 28,0 8,14 16,36 44,58 54,82 30,100 6,84 14,60 42,38 52,16 40,2
        | 30,0 10,12 12,38 30,48 48,36 50,12 29,0 / 30,48 6,62 6,90 30,100 54,90 54,62 29,48
        | 54,4 22,2 10,22 30,44 48,70 34,98 10,92 12,68 34,44 58,14
        | 32,44 14,28 22,4 44,6 46,28 30,46 8,66 14,96 44,96 50,68 30,46""",
    9: """50,14 28,2 6,20 10,44 34,46 51,16! 48,60 42,100
        | 50,16 26,0 6,20 14,46 40,42 52,14! 54,50 42,88 14,100
        | 46,12 22,2 6,24 20,46 44,36 48,8! 44,52 26,100
        | 42,6 18,4 8,28 24,44 46,24 42,6 / 46,4 50,40 48,100""",
}

_CHUNK: Final = 4096  # rows rendered at a time: bounds the random numbers held


def digits28(n: int = 70_000, rng: int | np.random.Generator | np.random.SeedSequence = 0) -> Pair:
    """``n`` images of digits ``x`` (n, 784) uint8 with labels ``y`` (n,) int64, 0 to 9.

    The classes are balanced (their counts differ by at most one) and shuffled. The same ``rng``
    gives the same bytes. Like MNIST: about 19% of the pixels carry ink, values run to 255, and a
    linear classifier stays well below a small multilayer perceptron.
    """
    check_count(n, "n")
    generator = as_generator(rng)
    from gpubp.kernels.cpu.generated import load_compiled

    pen = load_compiled("_pen", Path(__file__).parent)
    ways, points, first_way = _templates()
    y = generator.permutation(np.arange(n, dtype=np.int64) % 10)
    x = np.empty((n, 784), np.uint8)

    def draw(y: NDArray[np.int64], u: Any, grain: Any, x: NDArray[np.uint8]) -> None:
        pen.render(y, u, grain, first_way, ways, points, x)

    # Compiled here, once, and not while all threads wait for it.
    draw(y[:0], np.empty((0, pen.DRAWS), np.float32), x[:0], x[:0])
    threads = os.cpu_count() or 1
    with ThreadPoolExecutor(threads) as pool:
        for start in range(0, n, _CHUNK):
            rows = slice(start, min(start + _CHUNK, n))
            u = generator.random((rows.stop - start, pen.DRAWS), dtype=np.float32)
            grain = generator.integers(0, 256, (rows.stop - start, 784), dtype=np.uint8)
            parts = [np.array_split(array, threads) for array in (y[rows], u, grain, x[rows])]
            list(pool.map(draw, *parts))
    return x, y


@cache
def _templates() -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.int64]]:
    """The handwriting as arrays: ``ways`` (w, 2), ``points`` (p, 4), ``first_way`` (11,).

    ``ways[i]`` is the range of points of one way of writing; digit d has the ways
    ``first_way[d]`` to ``first_way[d + 1]``. A point is (x, y, starts a stroke, is a corner).
    """
    ways: list[tuple[int, int]] = []
    points: list[tuple[float, float, float, float]] = []
    first_way = [0]
    for digit in range(10):
        for way in _HANDWRITING[digit].split("|"):
            begin = len(points)
            for stroke in way.split("/"):
                for i, point in enumerate(stroke.split()):
                    px, py = point.rstrip("!").split(",")
                    corner = point.endswith("!")
                    points.append((float(px) / 100, float(py) / 100, float(i == 0), float(corner)))
            ways.append((begin, len(points)))
        first_way.append(len(ways))
    return np.array(ways), np.array(points), np.array(first_way)
