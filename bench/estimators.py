"""gpubp.sklearn's MLPClassifier beside scikit-learn's: the same fit, to the same weights, timed.

    python bench/estimators.py [--rounds 3]

Each fit begins at the same weights and sees the examples in the same order, in float64, and its
weights must agree with scikit-learn's within 1e-8 before anything is timed. Kernels are compiled
before. Digits are scikit-learn's 8 x 8 images; ``$GPUBP_DATA`` names the folder of MNIST.
Mini-batches are of 200 examples, scikit-learn's choice, where a case names no other.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
import warnings
from typing import Any

import numpy as np
from record import Row, append, device, versions, write_readme
from sklearn import neural_network as theirs
from sklearn.datasets import load_digits

import gpubp
from gpubp import sklearn as ours
from gpubp.plan import threads_at_hand

OURS = "gpubp.sklearn"


def digits() -> tuple[Any, Any]:
    x, y = load_digits(return_X_y=True)
    return x / 16, y


def mnist() -> tuple[Any, Any]:
    (x, y), _ = gpubp.data.load("mnist" if os.environ.get("GPUBP_DATA") else "digits28")
    return x / 255.0, y


CASES = [
    ("digits, 64-100-10, adam", digits, {"max_iter": 30}),
    ("digits, 64-100-10, sgd", digits,
     {"solver": "sgd", "learning_rate_init": 0.1, "max_iter": 30}),
    ("digits, 64-100-10, adam, batch 20", digits, {"max_iter": 10, "batch_size": 20}),
    ("MNIST, 784-100-10, adam", mnist, {"max_iter": 2}),
    ("MNIST, 784-100-10, sgd", mnist,
     {"solver": "sgd", "learning_rate_init": 0.1, "max_iter": 2}),
    ("MNIST, 784-100-10, sgd, batch 20", mnist,
     {"solver": "sgd", "learning_rate_init": 0.02, "max_iter": 1, "batch_size": 20}),
]  # fmt: skip


def fitted(library: Any, x: Any, y: Any, settings: dict[str, Any]) -> tuple[Any, float]:
    estimator = library.MLPClassifier(random_state=0, tol=0.0, **settings)
    started = time.perf_counter()
    estimator.fit(x, y)
    return estimator, (time.perf_counter() - started) / settings["max_iter"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    warnings.simplefilter("ignore")  # that so few epochs have not converged
    print(device(), versions(("numpy", "scikit-learn")))
    rows = []
    for case, load, settings in CASES:
        x, y = load()
        first = {library: fitted(library, x, y, settings)[0] for library in (ours, theirs)}
        for a, b in zip(first[ours].coefs_, first[theirs].coefs_, strict=True):
            apart = float(np.abs(a - b).max())
            if not apart <= 1e-8:
                raise SystemExit(f"{case}: the weights are {apart:.1e} apart; not timed")
        times: dict[str, list[float]] = {OURS: [], "scikit-learn": []}
        for _ in range(rounds):
            for name, library in zip(times, (ours, theirs), strict=True):
                times[name].append(fitted(library, x, y, settings)[1])
        own = statistics.median(times[OURS])
        print(f"\n{case}, float64")
        for name, found in times.items():
            median = statistics.median(found)
            rows.append(
                Row("estimators", case, name, "epoch", "ms", 1e3 * median, 1e3 * min(found),
                    1e3 * max(found), rounds, f"{threads_at_hand()} threads at hand")
            )  # fmt: skip
            print(f"  {name:16}{1e3 * median:10.2f} ms an epoch{median / own:8.2f}x")
    append(rows)
    write_readme()


if __name__ == "__main__":
    main()
