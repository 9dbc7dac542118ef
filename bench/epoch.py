"""How long does a training step take, whole epochs on MNIST-size data, beside other libraries?

    python bench/epoch.py [CASE ...] [--rounds N] [--seconds S]

Each library trains the same network from the same weights with the same mini-batches (see
``peers.py``); its cost after 100 steps must agree with the float64 reference to 0.1% before a time
is printed. An epoch visits the examples in a fresh random order, and drawing and gathering count.
Every library runs with 1 and with 2 threads, each in a process of its own, in turns; its best
thread count is reported. Set GPUBP_DATA to a folder with MNIST, else digits28 is used.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

import numpy as np
from peers import CASES, CHECK_STEPS, PEERS, cost, data
from record import Row, append, device, versions, write_readme

import gpubp

PACKAGES = ("numpy", "numba", "scipy", "scikit-learn", "torch", "jax", "optax")
# The book's loop and the compiler of whole graphs are slow to start and far from the front.
ONLY = {
    "Nielsen's loop": ["S"], "scikit-learn": ["S", "M"],
    "PyTorch compiled": ["S", "M", "S Adam"], "NumPy": [key for key in CASES if key != "S Adam"],
}  # fmt: skip
THREADS = [n for n in (1, 2, 4) if n <= (os.cpu_count() or 1)]
NEEDS = {"scikit-learn": "sklearn", "PyTorch": "torch", "JAX": "jax"}


def true_cost(key: str) -> float:
    """The cost after the checked steps, by the reference backend in float64."""
    case = CASES[key]
    _, x, y = data(case)
    net = gpubp.Network(case.sizes, rng=0, backend="reference", dtype="float64")
    for l, w in enumerate(gpubp.Network(case.sizes, rng=0).weights):
        net.weights[l] = w
        net.biases[l] = gpubp.Network(case.sizes, rng=0).biases[l]
    rows = np.random.default_rng(1).permutation(len(x))[: CHECK_STEPS * case.batch]
    net.fit(
        x[rows], y[rows], epochs=1, batch_size=case.batch, learning_rate=case.eta,
        optimizer=case.optimizer, shuffle=False,
    )  # fmt: skip
    return cost(list(net.weights), list(net.biases), x, y)


def run(peer: str, key: str, threads: int, seconds: float) -> dict[str, object] | str:
    """The peer's line of JSON, or why there is none."""
    count = str(threads)
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")
    environment = os.environ | dict.fromkeys(names, count)
    environment["GPUBP_NUM_THREADS"] = count
    if threads == 1:
        environment["XLA_FLAGS"] = (
            "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
        )
    script = Path(__file__).with_name("peers.py")
    done = subprocess.run(
        [sys.executable, str(script), peer, key, count, str(seconds)],
        capture_output=True, text=True, env=environment, check=False,
    )  # fmt: skip
    if done.returncode:
        return done.stderr.strip().splitlines()[-1]
    result: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
    return result


def measure(key: str, rounds: int, seconds: float) -> list[Row]:
    """One row a peer that ran and whose cost agrees; the others are named with the reason."""
    truth, rows = true_cost(key), []
    times: dict[tuple[str, int], list[float]] = {}
    dataset = data(CASES[key])[0]
    print(f"\ncase {key}, {dataset}: {CASES[key]}, cost after {CHECK_STEPS} steps {truth:.6f}")
    peers = [peer for peer in PEERS if key in ONLY.get(peer, CASES)]
    for _ in range(rounds):
        for peer in list(peers):
            for threads in THREADS:
                result = run(peer, key, threads, seconds)
                if isinstance(result, str):
                    print(f"  {peer}: left out, {result}")
                    peers.remove(peer)
                    break
                after = result["cost"]
                if after is not None and not abs(after - truth) <= 1e-3 * truth:
                    raise SystemExit(f"{peer} computes something else: cost {after}, not {truth}")
                times.setdefault((peer, threads), []).extend(result["microseconds"])
    for peer in peers:
        best = min(THREADS, key=lambda threads: statistics.median(times[peer, threads]))
        found = times[peer, best]
        note = f"{best} threads; {dataset}" + ("; its own cost" if peer == "scikit-learn" else "")
        rows.append(
            Row("epoch", key, peer, "step", "us", statistics.median(found), min(found),
                max(found), len(found), note)
        )  # fmt: skip
    ours = next(row.median for row in rows if row.subject == "gpubp cpu")
    print(f"  {'':22}{'us a step':>12}{'low':>10}{'high':>10}{'x gpubp':>10}  threads")
    for row in sorted(rows, key=lambda row: row.median):
        print(
            f"  {row.subject:22}{row.median:12.1f}{row.low:10.1f}{row.high:10.1f}"
            f"{row.median / ours:10.2f}  {row.note}"
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cases", nargs="*", default=list(CASES), help="S, M, L, 'S dense' ...")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=1.5)
    arguments = parser.parse_args()
    print(f"{device()}; {versions(PACKAGES)}")
    for key in arguments.cases:
        append(measure(key, arguments.rounds, arguments.seconds), PACKAGES)
    write_readme()


if __name__ == "__main__":
    main()
