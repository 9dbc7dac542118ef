"""How long does a whole process take until the network has learnt?

    python bench/time_to_accuracy.py [TASK ...] [--rounds N]

From the start of Python to its end: imports, reading the data, compilation and training, until the
test accuracy, looked at after each epoch, is reached:

    quadratic       [784, 30, 10], eta 3, batch 10, to 95% on MNIST, 93.5% on digits28
    cross_entropy   [784, 100, 10], eta 0.5, batch 10, l2 1e-4, to 97.5% on MNIST, 95.5%

gpubp runs cold (no compiled kernel on disk) and then warm (with what the cold run left there); the
others train the same network from the same weights over the same mini-batches. Each process is
timed from outside, after its libraries have been read from disk once; the thread count that was
faster in the first round goes on. Before a time is printed, the weights that the process leaves
must have the accuracy, in float64, and its first epoch must end at gpubp's accuracy. Set GPUBP_DATA
to a folder with MNIST, else digits28 is used, generated once beforehand.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from peers import Case, Jax, NumPy, Peer, Torch, sigmoid
from record import (
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

PACKAGES = ("numpy", "numba", "scipy", "torch", "jax")
MOST_EPOCHS = 30
FIRST_EPOCH = 0.5  # points of accuracy by which the first epochs may differ


@dataclass(frozen=True)
class Task:
    """A training and the test accuracy (%) that ends it, by data set.

    Two libraries' roundings lead to other weights after some ten thousand steps, and an epoch that
    ends near the goal then ends on either side of it: ``seed`` is one at which none does on MNIST.
    """

    case: Case
    cost: str
    l2: float
    accuracy: dict[str, float]
    seed: int


TASKS = {
    "quadratic": Task(
        Case((784, 30, 10), 10, 3.0), "quadratic", 0.0, {"MNIST": 95.0, "digits28": 93.5}, 15
    ),
    "cross_entropy": Task(
        Case((784, 100, 10), 10, 0.5), "cross_entropy", 1e-4, {"MNIST": 97.5, "digits28": 95.5}, 0
    ),
}
L2 = TASKS["cross_entropy"].l2


class NumPyCrossEntropy(NumPy):
    """delta^L = a - y; the weights, not the biases, shrink by 1 - eta l2."""

    def epoch(self, order: Any) -> None:
        m, eta = self.case.batch, self.case.eta
        for start in range(0, len(order), m):
            rows = order[start : start + m]
            a = [self.x[rows]]
            for w, b in zip(self.w, self.b, strict=True):
                a.append(sigmoid(a[-1] @ w.T + b))
            delta = a[-1] - self.y[rows]
            step = np.float32(eta / len(rows))
            for l in reversed(range(len(self.w))):
                below = (delta @ self.w[l]) * a[l] * (1 - a[l]) if l else None
                self.w[l] *= np.float32(1 - eta * L2)
                self.w[l] -= step * (delta.T @ a[l])
                self.b[l] -= step * delta.sum(axis=0)
                delta = below


class TorchCrossEntropy(Torch):
    """BCEWithLogitsLoss on what enters the last sigmoid; weight_decay on the weights alone."""

    def __init__(self, case: Case, x: Any, y: Any, w: Any, b: Any) -> None:
        super().__init__(case, x, y, w, b)
        logits = self.model[:-1]
        total = self.torch.nn.BCEWithLogitsLoss(reduction="sum")
        self.loss = lambda x, y: total(logits(x), y) / len(x)
        parameters = list(self.model.parameters())
        groups = [{"params": parameters[::2], "weight_decay": L2}, {"params": parameters[1::2]}]
        self.optimiser = self.torch.optim.SGD(groups, lr=case.eta)


class JaxCrossEntropy(Jax):
    """The same scan, with cross-entropy from logits and the L2 penalty in the loss."""

    def __init__(self, case: Case, x: Any, y: Any, w: Any, b: Any) -> None:
        import jax

        super().__init__(case, x, y, w, b)

        def loss(state: Any, x: Any, y: Any) -> Any:
            a = x
            for w, b in zip(*state, strict=True):
                z = a @ w.T + b
                a = jax.nn.sigmoid(z)
            penalty = 0.5 * L2 * sum((w**2).sum() for w in state[0])
            return (jax.nn.softplus(z) - y * z).sum(axis=1).mean() + penalty

        def train(state: Any, x: Any, y: Any, order: Any) -> Any:
            def step(state: Any, batch: Any) -> Any:
                gradient = jax.grad(loss)(state, x[batch], y[batch])
                return jax.tree.map(lambda p, g: p - case.eta * g, state, gradient), None

            return jax.lax.scan(step, state, order)[0]

        self.train = jax.jit(train, donate_argnums=0)


GPUBP, COLD = "gpubp cpu", ", cold"
# By name: the module that must be there, and a class for each task.
CONTENDERS: dict[str, tuple[str, dict[str, type[Peer]]]] = {
    GPUBP: ("gpubp", {}),
    "NumPy": ("numpy", {"quadratic": NumPy, "cross_entropy": NumPyCrossEntropy}),
    "PyTorch eager": ("torch", {"quadratic": Torch, "cross_entropy": TorchCrossEntropy}),
    "JAX scan": ("jax", {"quadratic": Jax, "cross_entropy": JaxCrossEntropy}),
}


def accuracy(w: Any, b: Any, x: Any, y: Any) -> float:
    """Per cent of the rows of x whose largest output is that of their class."""
    a = x
    for wl, bl in zip(w, b, strict=True):
        a = sigmoid(a @ wl.T + bl)
    return 100 * float((a.argmax(axis=1) == y).mean())


def train(name: str, key: str, source: str, goal: float, weights: str) -> list[float]:
    """The test accuracy after each epoch, up to the first that reaches ``goal``."""
    task = TASKS[key]
    case = task.case
    (x, y), (x_test, y_test) = gpubp.data.load(source)
    orders = np.random.default_rng(1)
    if name.startswith("gpubp "):
        backend = name.removeprefix("gpubp ")
        net = gpubp.Network(case.sizes, cost=task.cost, rng=task.seed, backend=backend)

        def enough(training: Any) -> None:
            if 100 * training.history[-1].validation_accuracy >= goal:
                training.stop()

        history = net.fit(
            x, y, epochs=MOST_EPOCHS, batch_size=case.batch, learning_rate=case.eta, l2=task.l2,
            shuffle=lambda _, n: orders.permutation(n), validation=(x_test, y_test),
            callbacks=[enough],
        )  # fmt: skip
        w, b = (list(map(net.backend.asnumpy, part)) for part in (net.weights, net.biases))
        reached = [100 * value for value in history.validation_accuracy if value is not None]
    else:
        start = gpubp.Network(case.sizes, rng=task.seed, backend="reference")
        peer = CONTENDERS[name][1][key](case, x, y, list(start.weights), list(start.biases))
        test = x_test.astype(np.float32) / np.float32(255)
        reached = []
        while len(reached) < MOST_EPOCHS and not (reached and reached[-1] >= goal):
            peer.epoch(orders.permutation(len(x)))
            w, b = peer.parameters()
            reached.append(accuracy(w, b, test, y_test))
    np.savez(weights, *w, *b)
    return reached


def run(
    name: str, key: str, source: str, goal: float, threads: int, cache: Path, limit: float | None
) -> tuple[float, list[float], list[Any]] | None:
    """(seconds from outside, accuracy after each epoch, the arrays w and b) of one process, or
    ``None`` where it took longer than ``limit`` seconds."""
    weights = cache / "weights.npz"
    environment = thread_environment(threads)
    environment |= {"GPUBP_CACHE": str(cache / "gpubp"), "NUMBA_CACHE_DIR": str(cache / "numba")}
    command = [sys.executable, __file__, "--child", name, key, source, str(goal), str(weights)]
    started = time.perf_counter()
    try:
        done = subprocess.run(
            command, env=environment, stdout=subprocess.PIPE, text=True, check=False, timeout=limit
        )
    except subprocess.TimeoutExpired:
        return None
    seconds = time.perf_counter() - started
    if done.returncode:
        raise SystemExit(f"{name} on {key}: stopped, see above; nothing is recorded")
    with np.load(weights) as file:
        return seconds, json.loads(done.stdout), [file[array] for array in file.files]


def missing(module: str) -> str | None:
    """Why the module cannot be imported, in a process of its own, which also warms the disk."""
    done = subprocess.run(
        [sys.executable, "-c", f"import {module}"], capture_output=True, text=True, check=False
    )
    return done.stderr.strip().splitlines()[-1] if done.returncode else None


def check(
    subject: str, reached: list[float], first: float, goal: float, arrays: Any, x: Any, y: Any
) -> None:
    """Stop where the weights left behind are not what was to be trained."""
    layers = len(arrays) // 2
    final = accuracy(arrays[:layers], arrays[layers:], x, y)
    if not (reached[-1] >= goal and abs(final - reached[-1]) <= 0.05):
        raise SystemExit(
            f"{subject}: {reached[-1]:.2f}% after {len(reached)} epochs, by its weights in float64 "
            f"{final:.2f}%, not {goal:g}%"
        )
    if not abs(reached[0] - first) <= FIRST_EPOCH:
        raise SystemExit(
            f"{subject} trains something else: {reached[0]:.2f}% after an epoch, not {first:.2f}%"
        )


def measure(key: str, dataset: str, source: str, contenders: list[str], rounds: int) -> list[Row]:
    """One row a contender, and one more for gpubp's cold start."""
    task = TASKS[key]
    goal = task.accuracy[dataset]
    _, (x, y) = gpubp.data.load(source)
    x = x.astype(float) / 255
    case = f"{goal:g}% {dataset}, {list(task.case.sizes)} {task.cost}"
    print(f"\n{key}: {case}")
    times: dict[tuple[str, int], list[float]] = {}
    epochs: dict[str, int] = {}
    first: list[float] = []
    best: dict[str, int] = {}

    def add(subject: str, threads: int, folder: Path, limit: float | None) -> None:
        name = subject.removesuffix(COLD)
        result = run(name, key, source, goal, threads, folder, limit)
        if result is None:
            print(f"  {subject:16} {threads_name(threads):9} over {limit:.1f} s, given up")
            times[subject, threads] = [math.inf]
            return
        seconds, reached, arrays = result
        first.append(reached[0])
        check(subject, reached, first[0], goal, arrays, x, y)
        times.setdefault((subject, threads), []).append(seconds)
        epochs[subject] = len(reached)
        print(
            f"  {subject:16} {threads_name(threads):9} {seconds:7.2f} s, {len(reached)} epochs, "
            f"{reached[-1]:.2f}%",
            flush=True,
        )

    for _ in range(rounds):
        for name in contenders:
            for threads in [best[name]] if name in best else thread_counts():
                with tempfile.TemporaryDirectory() as folder:
                    if name == GPUBP:
                        add(name + COLD, threads, Path(folder), None)
                        add(name, threads, Path(folder), None)
                    else:
                        # A number of threads twice as slow as another needs no figure.
                        known = times.get((name, 1)) if threads > 1 and name not in best else None
                        add(name, threads, Path(folder), 2 * known[0] if known else None)
            if name not in best:
                best[name] = min(thread_counts(), key=lambda threads: times[name, threads][0])
    rows = []
    for subject, count in epochs.items():
        threads = best[subject.removesuffix(COLD)]
        found = times[subject, threads]
        note = f"{count} epochs, {threads_name(threads)}"
        rows.append(
            Row("time_to_accuracy", case, subject, "process", "s", statistics.median(found),
                min(found), max(found), len(found), note)
        )  # fmt: skip
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("tasks", nargs="*", metavar="TASK", help=f"{' or '.join(TASKS)}: both")
    parser.add_argument("--rounds", type=int, default=3, help="processes of each (default 3)")
    parser.add_argument("--child", nargs=5, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        name, key, source, goal, weights = arguments.child
        print(json.dumps(train(name, key, source, float(goal), weights)))
        return
    for key in arguments.tasks:
        if key not in TASKS:
            parser.error(f"unknown task {key!r}: choose {' or '.join(TASKS)}")
    print(f"{device()}; {versions(PACKAGES)}")
    contenders = []
    for name, (module, _) in CONTENDERS.items():
        reason = missing(module)
        if reason is None:
            contenders.append(name)
        else:
            print(f"{name}: left out, {reason}")
    with tempfile.TemporaryDirectory() as folder:
        source, dataset = os.environ.get("GPUBP_DATA"), "MNIST"
        if source is None:
            source, dataset = str(Path(folder) / "digits28.npz"), "digits28"
            (x, y), (x_test, y_test) = gpubp.data.load("digits28")
            np.savez(source, x_train=x, y_train=y, x_test=x_test, y_test=y_test)
        for key in arguments.tasks or TASKS:
            append(measure(key, dataset, source, contenders, arguments.rounds), PACKAGES)
    write_readme()


if __name__ == "__main__":
    main()
