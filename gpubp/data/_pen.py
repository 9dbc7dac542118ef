"""The compiled renderer of digits28: strokes and random numbers in, grey levels out.

Only + - * / and sqrt are used, on float64 and without fast-math, so that every machine gives the
same bytes.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from gpubp.kernels.cpu.machine_code import kept_jit

_MAX_POINTS: Final = 24  # control points of one way of writing
_STEPS: Final = 6  # straight pieces a spline segment is cut into
_GRID: Final = 4  # the bending field is given on _GRID x _GRID nodes
_BEND: Final = 20  # where the field's draws start: before it, one draw a quantity
_JITTER: Final = _BEND + 2 * _GRID * _GRID
DRAWS: Final = _JITTER + 2 * _MAX_POINTS  # uniform random numbers a sample consumes


@kept_jit
def _bump(t: float) -> float:
    """Cubic B-spline, t in nodes from the centre: smooth, support |t| < 2."""
    t = abs(t)
    if t >= 2.0:
        return 0.0
    if t >= 1.0:
        return (2.0 - t) ** 3 / 6.0
    return 2.0 / 3.0 - t * t + 0.5 * t * t * t


@kept_jit
def _spread(u: float, width: float) -> float:
    """A uniform draw u in [0, 1) as an offset in [-width, width)."""
    return width * (2.0 * u - 1.0)


@kept_jit
def _ink(
    image: NDArray[np.float64],
    x0: float,
    y0: float,
    x1: float,
    y1: float,
    radius: float,
    soft: float,
    dark: float,
) -> None:
    """image = max(image, dark * coverage) for a pen of ``radius`` moved from (x0, y0) to (x1, y1).

    Coverage falls from 1 to 0 over ``soft`` pixels around the distance ``radius``.
    """
    reach = radius + soft
    top = max(0, int(min(y0, y1) - reach))
    bottom = min(27, int(max(y0, y1) + reach) + 1)
    left = max(0, int(min(x0, x1) - reach))
    right = min(27, int(max(x0, x1) + reach) + 1)
    dx, dy = x1 - x0, y1 - y0
    length2 = max(dx * dx + dy * dy, 1e-12)
    for row in range(top, bottom + 1):
        for column in range(left, right + 1):
            px, py = column - x0, row - y0
            t = min(1.0, max(0.0, (px * dx + py * dy) / length2))
            ex, ey = px - t * dx, py - t * dy
            distance = np.sqrt(ex * ex + ey * ey)
            cover = dark * min(1.0, max(0.0, (radius - distance) / soft + 0.5))
            image[row, column] = max(image[row, column], cover)


@kept_jit
def render(
    y: NDArray[np.int64],
    draws: NDArray[np.float32],
    grain: NDArray[np.uint8],
    first_way: NDArray[np.int64],
    ways: NDArray[np.int64],
    points: NDArray[np.float64],
    x: NDArray[np.uint8],
) -> None:
    """Row i of ``x`` (n, 784) is the digit ``y[i]`` as ``draws[i]`` and ``grain[i]`` shape it."""
    max_pieces = 2 * _MAX_POINTS * _STEPS
    bent = np.empty((_MAX_POINTS, 2))
    path = np.empty((max_pieces, 5))  # x0, y0, x1, y1, progress of the pen
    image = np.empty((28, 28))
    for i in range(y.size):
        u = draws[i]
        choices = first_way[y[i] + 1] - first_way[y[i]]
        way = first_way[y[i]] + int(u[0] * choices)
        begin, end = ways[way, 0], ways[way, 1]
        sloppy = 0.6 + 0.8 * u[1]

        # The affine map: slant after rotation after anisotropic scaling. With t = tan(angle / 2)
        # the rotation is rational.
        t = _spread(u[2], 0.11) + _spread(u[3], 0.07)
        cosine, sine = (1.0 - t * t) / (1.0 + t * t), 2.0 * t / (1.0 + t * t)
        slant = 0.12 + _spread(u[4], 0.38)
        widen = 1.1 + _spread(u[5], 0.28)

        offset_x, offset_y = 0.0, 0.0
        stroke = 0
        for k in range(begin, end):
            px = points[k, 0] - 0.3
            py = points[k, 1] - 0.5
            if points[k, 2] == 1.0 and k > begin:
                offset_x = _spread(u[6 + stroke], 0.07 * sloppy)
                offset_y = _spread(u[8 + stroke], 0.07 * sloppy)
                stroke += 1
            j = _JITTER + 2 * (k - begin)
            px += offset_x + _spread(u[j], 0.044 * sloppy)
            py += offset_y + _spread(u[j + 1], 0.044 * sloppy)
            # Nodes of the bending field lie at -0.75, -0.25, 0.25, 0.75 both ways.
            warp_x, warp_y = 0.0, 0.0
            for a in range(_GRID):
                for b in range(_GRID):
                    weight = _bump((px + 0.75) * 2.0 - a) * _bump((py + 0.75) * 2.0 - b)
                    node = _BEND + 2 * (a * _GRID + b)
                    warp_x += weight * _spread(u[node], 0.37 * sloppy)
                    warp_y += weight * _spread(u[node + 1], 0.37 * sloppy)
            px, py = (px + warp_x) * widen, py + warp_y
            px, py = cosine * px - sine * py, sine * px + cosine * py
            bent[k - begin, 0] = px - slant * py
            bent[k - begin, 1] = py

        # Catmull-Rom: the tangent at a point joins its neighbours; at a corner and at the ends of
        # a stroke it joins the point to its one neighbour.
        pieces = 0
        for k in range(begin, end - 1):
            if points[k + 1, 2] == 1.0:
                continue
            p, q = k - begin, k + 1 - begin
            before = p if points[k, 2] == 1.0 or points[k, 3] == 1.0 else p - 1
            last = k + 2 >= end or points[k + 2, 2] == 1.0
            after = q if last or points[k + 1, 3] == 1.0 else q + 1
            x0, y0 = bent[p, 0], bent[p, 1]
            for step in range(1, _STEPS + 1):
                s = step / _STEPS
                h1 = s * s * (3.0 - 2.0 * s)
                h2 = s * (1.0 - s) * (1.0 - s)
                h3 = s * s * (s - 1.0)
                x1 = (
                    (1.0 - h1) * bent[p, 0]
                    + h1 * bent[q, 0]
                    + 0.5 * h2 * (bent[q, 0] - bent[before, 0])
                    + 0.5 * h3 * (bent[after, 0] - bent[p, 0])
                )
                y1 = (
                    (1.0 - h1) * bent[p, 1]
                    + h1 * bent[q, 1]
                    + 0.5 * h2 * (bent[q, 1] - bent[before, 1])
                    + 0.5 * h3 * (bent[after, 1] - bent[p, 1])
                )
                path[pieces, 0], path[pieces, 1] = x0, y0
                path[pieces, 2], path[pieces, 3] = x1, y1
                path[pieces, 4] = (p + s) / (end - begin)
                x0, y0 = x1, y1
                pieces += 1

        # The box and the centre of mass of the pen's path, then MNIST's normalisation.
        low_x, high_x, low_y, high_y = np.inf, -np.inf, np.inf, -np.inf
        mass, mass_x, mass_y = 0.0, 0.0, 0.0
        for k in range(pieces):
            x0, y0, x1, y1 = path[k, 0], path[k, 1], path[k, 2], path[k, 3]
            low_x, high_x = min(low_x, x0, x1), max(high_x, x0, x1)
            low_y, high_y = min(low_y, y0, y1), max(high_y, y0, y1)
            length = np.sqrt((x1 - x0) ** 2 + (y1 - y0) ** 2)
            mass += length
            mass_x += 0.5 * length * (x0 + x1)
            mass_y += 0.5 * length * (y0 + y1)
        radius = 0.7 + 0.85 * u[10]
        soft = 1.0 + 0.8 * u[11]
        scale = (20.0 - 2.0 * radius) / max(high_x - low_x, high_y - low_y)
        centre_x = 13.5 + _spread(u[12], 0.75) - scale * mass_x / mass
        centre_y = 13.5 + _spread(u[13], 0.75) - scale * mass_y / mass

        # Pressure and darkness of the pen change linearly along the way.
        press, fade = _spread(u[14], 0.25), _spread(u[15], 0.15)
        image[:] = 0.0
        for k in range(pieces):
            along = 2.0 * path[k, 4] - 1.0
            _ink(
                image,
                centre_x + scale * path[k, 0],
                centre_y + scale * path[k, 1],
                centre_x + scale * path[k, 2],
                centre_y + scale * path[k, 3],
                radius * (1.0 + press * along),
                soft,
                min(1.0, 1.0 + fade * along),
            )
        rough = 0.25 * u[16]
        for row in range(28):
            for column in range(28):
                pixel = 28 * row + column
                level = image[row, column] * (1.0 - rough * grain[i, pixel] / 255.0)
                x[i, pixel] = int(255.0 * level + 0.5)
