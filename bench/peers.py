"""The same training by other means: one class a library, each in the way that suits it best.

    python bench/peers.py NAME CASE THREADS SECONDS

trains from shared initial weights, first CHECK_STEPS mini-batches in a shared order, and then for
about SECONDS in orders of its own, and prints one line of JSON: the weights' cost after the check
and microseconds a step. ``bench/epoch.py`` runs it in a process of its own for each library and
thread count, because thread pools are set up once.
"""

from __future__ import annotations

import json
import os
import sys
import time
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import numpy as np

import gpubp

CHECK_STEPS = 100


@dataclass(frozen=True)
class Case:
    """A network and how it is trained: sigmoid layers, quadratic cost, float32; by SGD or Adam."""

    sizes: tuple[int, ...]
    batch: int
    eta: float
    dense: bool = False
    optimizer: str = "sgd"


CASES = {
    "S": Case((784, 30, 10), 10, 3.0),
    "M": Case((784, 128, 10), 128, 0.5),
    "L": Case((784, 1024, 1024, 10), 512, 0.5),
    "S dense": Case((784, 30, 10), 10, 3.0, dense=True),
    "M dense": Case((784, 128, 10), 128, 0.5, dense=True),
    "S Adam": Case((784, 30, 10), 10, 1e-3, optimizer="adam"),
}


def data(case: Case) -> tuple[str, Any, Any]:
    """(name, x uint8 or dense float32, labels): MNIST from $GPUBP_DATA, else digits28."""
    name = "MNIST" if os.environ.get("GPUBP_DATA") else "digits28"
    (x, y), _ = gpubp.data.load(name.lower())
    if case.dense:  # no pixel is zero: nothing to skip, and still something to learn
        x = (0.05 + 0.9 * x.astype(np.float32) / 255).astype(np.float32)
    return name, x, y


def sigmoid(z: Any) -> Any:
    return 1 / (1 + np.exp(-z))


class Peer(ABC):
    """``epoch(order)`` trains on the examples of ``order``; ``parameters()`` gives (w, b) lists."""

    steps_at_once = 0  # mini-batches in one call; 0 for a whole epoch
    epochs_at_once = 1  # in one call, where it is for a whole epoch

    def __init__(self, case: Case, x: Any, y: Any, w: Any, b: Any) -> None:
        self.case = case
        self.x = x.astype(np.float32) / np.float32(255) if x.dtype == np.uint8 else x
        self.y = np.eye(10, dtype=np.float32)[y]
        self.w, self.b = [u.copy() for u in w], [u.copy() for u in b]

    def parameters(self) -> tuple[Any, Any]:
        return self.w, self.b

    @abstractmethod
    def epoch(self, order: Any) -> None:
        """Train on the examples of ``order`` in mini-batches."""


class Gpubp(Peer):
    """gpubp's Stepper, as fit drives it; uint8 images stay uint8."""

    def __init__(self, case: Case, x: Any, y: Any, w: Any, b: Any) -> None:
        self.case, self.x, self.y = case, x, y
        self.net = gpubp.Network(case.sizes, rng=0)
        for l in range(len(w)):
            self.net.weights[l], self.net.biases[l] = w[l], b[l]

    def parameters(self) -> tuple[Any, Any]:
        return list(self.net.weights), list(self.net.biases)

    def epoch(self, order: Any) -> None:
        whole = len(order) == len(self.x)
        x, y = (self.x, self.y) if whole else (self.x[order], self.y[order])
        self.net.fit(
            x, y, epochs=1, batch_size=self.case.batch, learning_rate=self.case.eta,
            optimizer=self.case.optimizer,
            shuffle=(lambda rng, n: order) if whole else False, progress=False,
        )  # fmt: skip


class NumPy(Peer):
    """Vectorised over the mini-batch, weights (n_out, n_in)."""

    def epoch(self, order: Any) -> None:
        m = self.case.batch
        for start in range(0, len(order), m):
            rows = order[start : start + m]
            a = [self.x[rows]]
            for w, b in zip(self.w, self.b, strict=True):
                a.append(sigmoid(a[-1] @ w.T + b))
            delta = (a[-1] - self.y[rows]) * a[-1] * (1 - a[-1])
            step = np.float32(self.case.eta / len(rows))
            for l in reversed(range(len(self.w))):
                below = (delta @ self.w[l]) * a[l] * (1 - a[l]) if l else None
                self.w[l] -= step * (delta.T @ a[l])
                self.b[l] -= step * delta.sum(axis=0)
                delta = below


class Nielsen(Peer):
    """One example at a time in column vectors, as chapter 1 of the book has it."""

    steps_at_once = 200

    def epoch(self, order: Any) -> None:
        m = self.case.batch
        for start in range(0, len(order), m):
            rows = order[start : start + m]
            nabla_b = [np.zeros_like(b) for b in self.b]
            nabla_w = [np.zeros_like(w) for w in self.w]
            for row in rows:
                a, y = [self.x[row][:, None]], self.y[row][:, None]
                for w, b in zip(self.w, self.b, strict=True):
                    a.append(sigmoid(np.dot(w, a[-1]) + b[:, None]))
                delta = (a[-1] - y) * a[-1] * (1 - a[-1])
                for l in reversed(range(len(self.w))):
                    nabla_b[l] = nabla_b[l] + delta[:, 0]
                    nabla_w[l] = nabla_w[l] + np.dot(delta, a[l].T)
                    delta = np.dot(self.w[l].T, delta) * a[l] * (1 - a[l])
            step = np.float32(self.case.eta / len(rows))
            self.w = [w - step * g for w, g in zip(self.w, nabla_w, strict=True)]
            self.b = [b - step * g for b, g in zip(self.b, nabla_b, strict=True)]


class ScikitLearn(Peer):
    """MLPClassifier's partial_fit: its output is softmax with log-loss, so its cost is another."""

    def __init__(self, case: Case, x: Any, y: Any, w: Any, b: Any) -> None:
        from sklearn.neural_network import MLPClassifier

        super().__init__(case, x, y, w, b)
        self.labels = y
        self.model = MLPClassifier(
            case.sizes[1:-1], activation="logistic", solver="sgd", alpha=0.0,
            batch_size=case.batch, learning_rate_init=0.1, momentum=0.0,
            nesterovs_momentum=False, random_state=0,
        )  # fmt: skip
        self.model.partial_fit(self.x[: 2 * case.batch], y[: 2 * case.batch], classes=range(10))

    def epoch(self, order: Any) -> None:
        self.model.partial_fit(self.x, self.labels)  # one epoch in an order of its own

    def parameters(self) -> tuple[Any, Any]:
        return [], []


class Torch(Peer):
    """Eager PyTorch: Linear and sigmoid layers, autograd, torch.optim.SGD."""

    compiled = False

    def __init__(self, case: Case, x: Any, y: Any, w: Any, b: Any) -> None:
        import torch

        super().__init__(case, x, y, w, b)
        self.torch = torch
        torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
        layers: list[Any] = []
        for wl, bl in zip(w, b, strict=True):
            linear = torch.nn.Linear(wl.shape[1], wl.shape[0])
            with torch.no_grad():
                linear.weight.copy_(torch.from_numpy(wl))
                linear.bias.copy_(torch.from_numpy(bl))
            layers += [linear, torch.nn.Sigmoid()]
        self.model = torch.nn.Sequential(*layers)
        kind = torch.optim.Adam if case.optimizer == "adam" else torch.optim.SGD
        self.optimizer = kind(self.model.parameters(), lr=case.eta)
        self.tx, self.ty = torch.from_numpy(self.x), torch.from_numpy(self.y)
        self.loss: Any = lambda x, y: 0.5 * ((self.model(x) - y) ** 2).sum(dim=1).mean()
        if self.compiled:
            self.loss = torch.compile(self.loss, dynamic=False)

    def epoch(self, order: Any) -> None:
        rows = self.torch.from_numpy(order)
        for batch in rows.split(self.case.batch):
            if self.compiled and len(batch) < self.case.batch:
                continue  # another shape would be compiled anew
            self.optimizer.zero_grad(set_to_none=True)
            self.loss(self.tx[batch], self.ty[batch]).backward()
            self.optimizer.step()

    def parameters(self) -> tuple[Any, Any]:
        arrays = [p.detach().numpy() for p in self.model.parameters()]
        return arrays[::2], arrays[1::2]


class TorchCompiled(Torch):
    """The same, forward and backward through torch.compile."""

    compiled = True


class Jax(Peer):
    """A jitted epoch: lax.scan over mini-batches that are gathered inside the scan."""

    permute_first = False

    def __init__(self, case: Case, x: Any, y: Any, w: Any, b: Any) -> None:
        import jax
        import jax.numpy as jnp

        super().__init__(case, x, y, w, b)
        self.jnp = jnp
        weights = ([jnp.asarray(u) for u in w], [jnp.asarray(u) for u in b])
        # Adam is optax's; SGD is written out, as fast or faster.
        adam = None
        if case.optimizer == "adam":
            import optax

            adam = optax.adam(case.eta)
        self.state = (weights, () if adam is None else adam.init(weights))
        self.jx, self.jy = jnp.asarray(self.x), jnp.asarray(self.y)
        eta, permute = case.eta, self.permute_first

        def loss(weights: Any, x: Any, y: Any) -> Any:
            a = x
            for w, b in zip(*weights, strict=True):
                a = jax.nn.sigmoid(a @ w.T + b)
            return 0.5 * ((a - y) ** 2).sum(axis=1).mean()

        def train(state: Any, x: Any, y: Any, order: Any) -> Any:
            def step(state: Any, batch: Any) -> Any:
                xb, yb = batch if permute else (x[batch], y[batch])
                weights, memory = state
                gradient = jax.grad(loss)(weights, xb, yb)
                if adam is None:
                    return (jax.tree.map(lambda p, g: p - eta * g, weights, gradient), ()), None
                change, memory = adam.update(gradient, memory)
                return (jax.tree.map(jnp.add, weights, change), memory), None

            batches = (x[order], y[order]) if permute else order
            return jax.lax.scan(step, state, batches)[0]

        self.train = jax.jit(train, donate_argnums=0)

    def epoch(self, order: Any) -> None:
        m = self.case.batch
        whole = order[: len(order) // m * m].reshape(-1, m)
        self.state = self.train(self.state, self.jx, self.jy, self.jnp.asarray(whole))
        self.state[0][0][0].block_until_ready()

    def parameters(self) -> tuple[Any, Any]:
        w, b = self.state[0]
        return [np.asarray(u) for u in w], [np.asarray(u) for u in b]


class JaxPermuted(Jax):
    """The same over a copy of the data in the epoch's order."""

    permute_first = True


PEERS: dict[str, type[Peer]] = {
    "gpubp cpu": Gpubp,
    "NumPy": NumPy,
    "Nielsen's loop": Nielsen,
    "scikit-learn": ScikitLearn,
    "PyTorch eager": Torch,
    "PyTorch compiled": TorchCompiled,
    "JAX scan": Jax,
    "JAX scan, permuted": JaxPermuted,
}


def cost(w: Any, b: Any, x: Any, y: Any) -> float:
    """The mean quadratic cost over all examples, in float64."""
    total = 0.0
    for start in range(0, len(x), 5000):
        a = x[start : start + 5000].astype(np.float64) / (255 if x.dtype == np.uint8 else 1)
        for wl, bl in zip(w, b, strict=True):
            a = sigmoid(a @ wl.T.astype(np.float64) + bl)
        total += 0.5 * ((a - np.eye(10)[y[start : start + 5000]]) ** 2).sum()
    return total / len(x)


def main() -> None:
    name, key, seconds = sys.argv[1], sys.argv[2], float(sys.argv[4])
    case = CASES[key]
    dataset, x, y = data(case)
    start = gpubp.Network(case.sizes, rng=0, backend="reference")
    peer = PEERS[name](case, x, y, list(start.weights), list(start.biases))
    rng = np.random.default_rng(1)
    order = rng.permutation(len(x))
    peer.epoch(order[: CHECK_STEPS * case.batch])
    w, b = peer.parameters()
    after = cost(w, b, x, y) if w else None
    n = peer.steps_at_once * case.batch or len(x)
    peer.epoch(rng.permutation(len(x))[:n])  # compiles for this length, warms up
    times, until = [], time.perf_counter() + seconds
    while len(times) < 3 or time.perf_counter() < until:
        started = time.perf_counter()
        peer.epoch(rng.permutation(len(x))[:n])
        steps = -(-n // case.batch) * peer.epochs_at_once
        times.append((time.perf_counter() - started) / steps * 1e6)
    print(json.dumps({"data": dataset, "cost": after, "microseconds": times}))


if __name__ == "__main__":
    main()
