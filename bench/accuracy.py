"""Does it learn what the book says? The book's networks on MNIST, best test accuracy of a run.

    python bench/accuracy.py [MNIST FOLDER]

The published figures are Nielsen's, Neural Networks and Deep Learning, chapters 1 and 3, trained
on 50,000 examples; here all 60,000 training examples are used, as ``gpubp train`` does, and the
10,000 test examples judge each epoch.
"""

from __future__ import annotations

import sys
import time

from record import Row, append, write_readme

import gpubp

L2 = 5.0 / 50_000  # the book's lambda / n
CASES = [
    # (case, published, sizes, epochs, learning rate, runs, network settings, l2)
    ("[784,30,10] quadratic, eta 3, batch 10, 30 epochs", "95.42%", [784, 30, 10], 30, 3.0, 3,
     {"init": "normal"}, 0.0),
    ("[784,100,10] quadratic, eta 3, batch 10, 30 epochs", "96.59%", [784, 100, 10], 30, 3.0, 3,
     {"init": "normal"}, 0.0),
    ("[784,30,10] quadratic, eta 0.001, batch 10, 30 epochs", "near 21%", [784, 30, 10], 30, 0.001,
     3, {"init": "normal"}, 0.0),
    ("[784,30,10] quadratic, eta 100, batch 10, 30 epochs", "near 10%", [784, 30, 10], 30, 100.0, 3,
     {"init": "normal"}, 0.0),
    ("[784,100,10] cross-entropy, eta 0.5, lambda 5, scaled weights, 30 epochs", "97.92%",
     [784, 100, 10], 30, 0.5, 3, {"cost": "cross_entropy"}, L2),
    ("[784,100,10] cross-entropy, eta 0.1, lambda 5, scaled weights, 60 epochs", "98.04%",
     [784, 100, 10], 60, 0.1, 3, {"cost": "cross_entropy"}, L2),
]  # fmt: skip


def main() -> None:
    train, test = gpubp.data.mnist(*sys.argv[1:2])
    rows = []
    for case, published, sizes, epochs, rate, runs, settings, l2 in CASES:
        best = []
        for seed in range(runs):
            started = time.perf_counter()
            net = gpubp.Network(sizes, rng=seed, **settings)
            history = net.fit(
                *train, epochs=epochs, batch_size=10, learning_rate=rate, l2=l2, validation=test
            )
            best.append(100 * max(history.validation_accuracy))
            print(f"{case}, seed {seed}: {best[-1]:.2f}% in {time.perf_counter() - started:.1f} s")
        note = f"{published}; {', '.join(f'{value:.2f}' for value in best)}"
        rows.append(
            Row("accuracy", case, "gpubp cpu", "best test accuracy", "%",
                sorted(best)[len(best) // 2], min(best), max(best), runs, note)
        )  # fmt: skip
    append(rows)
    write_readme()


if __name__ == "__main__":
    main()
