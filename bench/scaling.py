"""How does the time of a step grow with the batch size and with the width of the hidden layer?

    python bench/scaling.py [--quick] [--rounds N] [--seconds S]

``Network.fit`` on [784, 30, 10] at batch sizes 1 to 4096, and on [784, n, 10] at batch size 32 for
n = 16 to 4096; sigmoid, quadratic cost, float32; with 1 thread and with all, in a process each. The
weights after 8 steps must agree with the float64 reference's before a time is printed. A straight
line a + b n is fitted to the times (least squares of the relative distances); where a time is more
than 25% off the line, the script says so, with what changes on the way: the cache that weights and
mini-batch fit in, and the share of inputs that are used, which are not zero in a whole mini-batch.
It draws scaling.png beside the results. Set GPUBP_DATA to a folder with MNIST, else
digits28 is used.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from peers import Case, data
from record import (
    RESULTS,
    Row,
    append,
    device,
    thread_counts,
    thread_environment,
    threads_name,
    versions,
    write_readme,
)

import gpubp

WIDTH, BATCH, ETA = 30, 32, 0.5
BATCHES = [2**k for k in range(13)]
WIDTHS = [2**k for k in range(4, 13)]
CHECK_STEPS = 8
OFF = 0.25
SWEEPS = {"batch": "batch size", "width": "hidden width"}
# Okabe and Ito's blue and vermilion: told apart with any colour vision.
STYLES = [{"color": "#0072B2", "marker": "o"}, {"color": "#D55E00", "marker": "s"}]


def case_of(sweep: str, n: int) -> tuple[list[int], int]:
    """(sizes, batch size) at the point n of a sweep."""
    return ([784, WIDTH, 10], n) if sweep == "batch" else ([784, n, 10], BATCH)


def weight_bytes(sizes: list[int]) -> int:
    """Bytes of all weights and biases, float32."""
    return 4 * sum((n_in + 1) * n_out for n_in, n_out in pairwise(sizes))


def caches() -> dict[str, int]:
    """Bytes of the caches that a core can use for data, innermost first; empty where unknown."""
    found = {}
    for index in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        level, kind, size = ((index / name).read_text().strip() for name in
                             ("level", "type", "size"))  # fmt: skip
        if kind != "Instruction":
            found[f"L{level}"] = int(size.removesuffix("K")) * 1024
    return found


def home(size: int) -> str:
    """The innermost cache that ``size`` bytes fit in."""
    levels = caches()
    return next((name for name, room in levels.items() if size <= room),
                "memory" if levels else "unknown cache")  # fmt: skip


def grown(sweep: str, n: int, used: float) -> str:
    """What grows with n: the inputs of a mini-batch as float32, or the weights; and where to."""
    sizes, batch = case_of(sweep, n)
    if sweep == "width":
        size = weight_bytes(sizes)
        return f"weights {size / 1e6:.2g} MB ({home(size)})"
    size = 4 * batch * sizes[0]
    return f"mini-batch {size / 1e6:.2g} MB ({home(size)}), {used:.0%} of inputs used"


def used_inputs(x: Any, batch: int) -> float:
    """Share of the inputs that are not zero in a whole mini-batch, mean of some random ones."""
    rng = np.random.default_rng(2)
    shares = [(x[rng.integers(len(x), size=batch)] != 0).any(axis=0).mean() for _ in range(20)]
    return float(np.mean(shares))


def check(sizes: list[int], batch: int, x: Any, y: Any) -> None:
    """Stop where a few steps do not end at the float64 reference's weights."""
    nets = [
        gpubp.Network(sizes, rng=0, backend="cpu"),
        gpubp.Network(sizes, rng=0, backend="reference", dtype="float64"),
    ]
    for l in range(2):
        nets[1].weights[l], nets[1].biases[l] = nets[0].weights[l], nets[0].biases[l]
    before = nets[1].parameters.flat.copy()
    n = CHECK_STEPS * batch
    for net in nets:
        net.fit(x[:n], y[:n], epochs=1, batch_size=batch, learning_rate=ETA, shuffle=False)
    ours, truth = nets[0].parameters.flat, nets[1].parameters.flat
    # Relative to the steps taken: wrong gradients must not hide behind large weights.
    error = np.linalg.norm(ours - truth) / np.linalg.norm(truth - before)
    if not error <= 1e-4:
        raise SystemExit(f"{sizes}, batch {batch}: weights {error:.1e} from float64's; not timed")


def microseconds(
    sizes: list[int], batch: int, x: Any, y: Any, rounds: int, seconds: float
) -> list[float]:
    """Microseconds a step of ``fit``, all it does included, ``rounds`` times."""
    net = gpubp.Network(sizes, rng=0)

    def timed(n: int) -> float:
        started = time.perf_counter()
        net.fit(x[:n], y[:n], epochs=1, batch_size=batch, learning_rate=ETA, progress=False)
        return (time.perf_counter() - started) / (n // batch)

    timed(4 * batch)  # compiles
    guess = timed(16 * batch) if 16 * batch <= len(x) else timed(4 * batch)
    steps = max(4, min(int(seconds / guess), len(x) // batch))
    return [1e6 * timed(steps * batch) for _ in range(rounds)]


def measure_here(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Every point of both sweeps in this process, with its threads."""
    _, x, y = data(Case((784, 10), 1, ETA))
    points = []
    for sweep, counts in (("batch", BATCHES), ("width", WIDTHS)):
        for n in counts[:: 3 if arguments.quick else 1]:
            sizes, batch = case_of(sweep, n)
            check(sizes, batch, x, y)
            times = microseconds(sizes, batch, x, y, arguments.rounds, arguments.seconds)
            used = used_inputs(x, batch)
            points.append({"sweep": sweep, "n": n, "times": times, "used": used})
    return points


def line(n: Any, t: Any) -> tuple[float, float]:
    """(a, b) of t = a + b n, neither negative, by least squares of (a + b n - t) / t."""
    from scipy.optimize import nnls

    (a, b), _ = nnls(np.stack([1 / t, n / t], axis=1), np.ones(len(t)))
    return float(a), float(b)


def rows_of(
    sweep: str, subject: str, points: list[dict[str, Any]], rounds: int
) -> tuple[list[Row], tuple[float, float]]:
    """The rows of one sweep and the line through them; says where the times leave it."""
    n = np.array([point["n"] for point in points])
    t = np.array([statistics.median(point["times"]) for point in points])
    a, b = line(n, t)
    text = f"{a:.1f} us + {b:.3g} us n"
    print(f"\n{SWEEPS[sweep]} n, {subject}: a step takes about {text}")
    rows, leaving = [], []
    for point, time_, fitted in zip(points, t, a + b * n, strict=True):
        _, batch = case_of(sweep, point["n"])
        off = time_ / fitted - 1
        where = grown(sweep, point["n"], point["used"])
        far = not abs(off) <= OFF
        if far:
            leaving.append(f"{off:+.0%} at {point['n']}")
        rows.append(
            Row("scaling", f"{SWEEPS[sweep]} {point['n']}", subject, "step", "us", float(time_),
                min(point["times"]), max(point["times"]), rounds,
                f"{off:+.0%}; batch {batch}; {where}")
        )  # fmt: skip
        print(
            f"  {point['n']:5} {time_:10.1f} us {batch / time_ * 1e6:12,.0f} examples/s  line"
            f" {fitted:10.1f} us {off:+5.0%}{' off the line' if far else '':13} {where}"
        )
    note = f"{text}; more than {OFF:.0%} off it: {', '.join(leaving) or 'nowhere'}"
    rows.append(Row("scaling", f"{SWEEPS[sweep]} n", subject, "line", "us", a, a, a, rounds, note))
    return rows, (a, b)


def plot(path: Path, rows: list[Row], lines: dict[tuple[str, str], tuple[float, float]]) -> None:
    """Time a step above, examples a second below, over batch size and over hidden width."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.6, 6.8), dpi=150, layout="constrained")
    panels = figure.subplots(2, 2, sharex="col")
    for column, sweep in enumerate(SWEEPS):
        upper, lower = panels[:, column]
        for (name, subject), (a, b) in lines.items():
            if name != sweep:
                continue
            style = STYLES[list(dict.fromkeys(s for _, s in lines)).index(subject)]
            mine = [
                row for row in rows
                if row.subject == subject and row.metric == "step"
                and row.case.startswith(SWEEPS[sweep])
            ]  # fmt: skip
            n = np.array([int(row.case.rsplit(" ", 1)[1]) for row in mine])
            t, low, high = (np.array([getattr(row, key) for row in mine]) for key in
                            ("median", "low", "high"))  # fmt: skip
            batch = n if sweep == "batch" else np.full(len(n), BATCH)
            upper.errorbar(n, t, yerr=[t - low, high - t], linestyle="none", markersize=5,
                           capsize=2, label=f"{subject}; dashed: {a:.1f} µs + {b:.3g} µs n",
                           **style)  # fmt: skip
            dense = np.geomspace(n[0], n[-1], 200)
            upper.plot(dense, a + b * dense, color=style["color"], linestyle="--", linewidth=1)
            lower.plot(n, batch / t * 1e6, markersize=5, **style)
        for panel in (upper, lower):
            panel.set_xscale("log", base=2)
            panel.set_yscale("log")
            panel.grid(alpha=0.3)
        if sweep == "width":
            _mark_caches(upper, n)
        upper.set_ylim(top=8 * upper.get_ylim()[1])  # room for the legend
        upper.legend(fontsize=8, loc="upper left")
        lower.set_xlabel(f"{SWEEPS[sweep]} n")
        lower.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    panels[0, 0].set_title(f"[784, {WIDTH}, 10], batch size n", fontsize=10)
    panels[0, 1].set_title(f"[784, n, 10], batch size {BATCH}", fontsize=10)
    panels[0, 0].set_ylabel("time of a step (µs)")
    panels[1, 0].set_ylabel("examples a second")
    figure.savefig(path)


def _mark_caches(panel: Any, n: Any) -> None:
    """Where the weights outgrow each cache."""
    for level, room in caches().items():
        width = (room / 4 - 10) / (785 + 10)
        if n[0] <= width <= n[-1]:
            panel.axvline(width, color="0.5", linewidth=1, linestyle=":")
            panel.text(width, 0.03, f" weights = {level}", transform=panel.get_xaxis_transform(),
                       fontsize=7, color="0.3")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="few points, and nothing recorded")
    parser.add_argument("--rounds", type=int, help="timings of each point (default 5; quick: 2)")
    parser.add_argument("--seconds", type=float, help="of one timing (default 0.3; quick: 0.05)")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    arguments.rounds = arguments.rounds or (2 if arguments.quick else 5)
    arguments.seconds = arguments.seconds or (0.05 if arguments.quick else 0.3)
    if arguments.child:
        print(json.dumps(measure_here(arguments)))
        return
    print(f"{device()}; {versions()}; caches {caches()}")
    rows: list[Row] = []
    lines: dict[tuple[str, str], tuple[float, float]] = {}
    for threads in thread_counts():
        done = subprocess.run(
            [sys.executable, __file__, "--child", *sys.argv[1:]],
            env=thread_environment(threads), stdout=subprocess.PIPE, text=True, check=False,
        )  # fmt: skip
        if done.returncode:
            raise SystemExit(f"{threads_name(threads)}: stopped, see above; nothing is recorded")
        points = json.loads(done.stdout)
        for sweep in SWEEPS:
            subject = threads_name(threads)
            mine = [point for point in points if point["sweep"] == sweep]
            found, lines[sweep, subject] = rows_of(sweep, subject, mine, arguments.rounds)
            rows += found
    if arguments.quick:
        return
    append(rows)
    plot(RESULTS.with_name("scaling.png"), rows, lines)
    write_readme()


if __name__ == "__main__":
    main()
