"""The peers of ``peers.py`` on a GPU: the same training, each library in the ways that suit it.

    python bench/gpu_peers.py NAME CASE SECONDS

Data and weights stay on the device. All compute in float32 (no TF32) but where a name says so. An
epoch's order comes from the host; gathering its rows counts, as does waiting for the last step.

It answers twice, in lines of JSON: when it is compiled and warm, with its cost after the checked
steps and the float64 reference's; then it waits for a line on stdin, so that many can prepare at
once and be timed one after another; and with microseconds a step.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import stand_in
from peers import CASES, Case, Jax, JaxPermuted, Peer, cost, data

import gpubp
from gpubp.optimizer import Update
from gpubp.plan import Plan

DEVICE = os.environ.get("GPUBP_TORCH_DEVICE", "cuda")


class GpubpCuda(Peer):
    """gpubp's Stepper on the GPU, the images as uint8; the way to train is its own choice."""

    way, precision = "", None  # GPUBP_CUDA_STEPPER, and that of the products

    def __init__(self, case: Case, x: Any, y: Any, w: Any, b: Any) -> None:
        self.case = case
        os.environ["GPUBP_CUDA_STEPPER"] = self.way
        net = gpubp.Network(case.sizes, rng=0, backend="cuda", precision=self.precision)
        for l in range(len(w)):
            net.weights[l], net.biases[l] = w[l], b[l]
        self.net = net
        self.x, self.y = x, y = net.check_data(net.backend.asarray(x), net.backend.asarray(y))
        plan = Plan(
            net.sizes, net.activations, net.cost, case.batch, net.dtype, precision=net.precision
        )
        self.stepper = net.backend.kernels.Stepper(plan, net.parameters, x, y)

    def parameters(self) -> tuple[Any, Any]:
        arrays = (self.net.weights, self.net.biases)
        w, b = ([self.net.backend.asnumpy(array) for array in part] for part in arrays)
        return w, b

    def epoch(self, order: Any) -> None:
        steps = -(-len(order) // self.case.batch)
        self.stepper.run(order, Update().numbers(1, np.full(steps, self.case.eta)))


class GpubpFit(Peer):
    """Whole fits of a Fleet: each network draws its own orders, and all that fit does counts. The
    step of all networks together is one step; the weights to check are the last network's."""

    networks, epochs_at_once = 1, 5

    def __init__(self, case: Case, x: Any, y: Any, w: Any, b: Any) -> None:
        self.case = case
        os.environ["GPUBP_CUDA_STEPPER"] = ""
        self.fleet = gpubp.Fleet.of(case.sizes, rng=range(self.networks), backend="cuda")
        for net in self.fleet:
            for l in range(len(w)):
                net.weights[l], net.biases[l] = w[l], b[l]
        self.x, self.y = (self.fleet[0].backend.asarray(array) for array in (x, y))

    def parameters(self) -> tuple[Any, Any]:
        net = self.fleet[-1]
        arrays = (net.weights, net.biases)
        w, b = ([net.backend.asnumpy(array) for array in part] for part in arrays)
        return w, b

    def epoch(self, order: Any) -> None:
        """Whole epochs in orders of their own; of a part of the examples one, in that order."""
        how = {"batch_size": self.case.batch, "learning_rate": self.case.eta, "progress": False}
        if len(order) == len(self.x):
            self.fleet.fit(self.x, self.y, epochs=self.epochs_at_once, **how)
        else:
            folds = [(order, None)] * self.networks
            self.fleet.fit(self.x, self.y, epochs=1, folds=folds, shuffle=False, **how)


class Gpubp16(GpubpFit):
    """As many as an H100 has room for clusters of 8 blocks."""

    networks = 16


class Gpubp132(GpubpFit):
    """As many as an H100 has multiprocessors."""

    networks = 132


class Gpubp1000(GpubpFit):
    """More than fit the chip at once."""

    networks, epochs_at_once = 1000, 1


class GpubpTF32(GpubpCuda):
    precision = "tf32"


class GpubpBF16(GpubpCuda):
    precision = "bf16"


class TorchOnGPU(Peer):
    """Eager PyTorch: Linear and sigmoid layers, autograd, torch.optim.SGD."""

    def __init__(self, case: Case, x: Any, y: Any, w: Any, b: Any) -> None:
        import torch

        super().__init__(case, x, y, w, b)
        self.torch = torch
        torch.backends.cuda.matmul.allow_tf32 = False
        layers: list[Any] = []
        for n_in, n_out in pairwise(case.sizes):
            layers += [torch.nn.Linear(n_in, n_out, device=DEVICE), torch.nn.Sigmoid()]
        self.model = torch.nn.Sequential(*layers)
        with torch.no_grad():
            for linear, wl, bl in zip(layers[::2], w, b, strict=True):
                linear.weight.copy_(torch.from_numpy(wl))
                linear.bias.copy_(torch.from_numpy(bl))
        self.optimiser = torch.optim.SGD(self.model.parameters(), lr=case.eta)
        self.tx = torch.from_numpy(self.x).to(DEVICE)
        self.ty = torch.from_numpy(self.y).to(DEVICE)
        self.loss: Any = lambda x, y: 0.5 * ((self.model(x) - y) ** 2).sum(dim=1).mean()

    def batches(self, order: Any) -> Any:
        """(steps, m) indices on the device; what is left over at the end stays untrained, which is
        the same for all that have one fixed shape."""
        m = self.case.batch
        return self.torch.from_numpy(order[: len(order) // m * m].reshape(-1, m)).to(DEVICE)

    def step(self, rows: Any) -> None:
        self.loss(self.tx[rows], self.ty[rows]).backward()
        self.optimiser.step()

    def epoch(self, order: Any) -> None:
        for rows in self.batches(order):
            self.optimiser.zero_grad(set_to_none=True)
            self.step(rows)
        self.wait()

    def wait(self) -> None:
        if DEVICE == "cuda":
            self.torch.cuda.synchronize()

    def parameters(self) -> tuple[Any, Any]:
        arrays = [p.detach().cpu().numpy() for p in self.model.parameters()]
        return arrays[::2], arrays[1::2]


class TorchCompiled(TorchOnGPU):
    """Forward and backward through torch.compile, its own CUDA graphs included."""

    def __init__(self, case: Case, x: Any, y: Any, w: Any, b: Any) -> None:
        super().__init__(case, x, y, w, b)
        self.loss = self.torch.compile(self.loss, mode="reduce-overhead", dynamic=False)


class TorchGraph(TorchOnGPU):
    """The whole step, gathering and SGD included, as one CUDA graph; the place in the order is a
    number on the device that the graph itself moves on."""

    steps_in_graph = 1

    def __init__(self, case: Case, x: Any, y: Any, w: Any, b: Any) -> None:
        super().__init__(case, x, y, w, b)
        torch = self.torch
        steps = len(x) // case.batch
        self.order = torch.zeros((steps, case.batch), dtype=torch.int64, device=DEVICE)
        self.place = torch.zeros(1, dtype=torch.int64, device=DEVICE)
        before = [p.detach().clone() for p in self.model.parameters()]
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):  # allocates the gradients and what cuBLAS needs
                self.one_step()
        torch.cuda.current_stream().wait_stream(side)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            for _ in range(self.steps_in_graph):
                self.one_step()
        with torch.no_grad():
            for p, start in zip(self.model.parameters(), before, strict=True):
                p.copy_(start)

    def one_step(self) -> None:
        rows = self.order.index_select(0, self.place)[0]
        self.optimiser.zero_grad(set_to_none=False)
        self.step(rows)
        self.place += 1

    def epoch(self, order: Any) -> None:
        batches = self.batches(order)
        self.order[: len(batches)] = batches
        self.place.zero_()
        for _ in range(len(batches) // self.steps_in_graph):
            self.graph.replay()
        for rows in batches[len(batches) // self.steps_in_graph * self.steps_in_graph :]:
            self.optimiser.zero_grad(set_to_none=False)
            self.step(rows)
        self.wait()


class TorchGraphs(TorchGraph):
    """The same with many steps in one graph."""

    steps_in_graph = 50


GPU_PEERS: dict[str, type[Peer]] = {
    "gpubp cuda": GpubpCuda,
    "gpubp cuda, tf32": GpubpTF32,
    "gpubp cuda, bf16": GpubpBF16,
    "gpubp cuda, 1 network": GpubpFit,
    "gpubp cuda, 16 networks": Gpubp16,
    "gpubp cuda, 132 networks": Gpubp132,
    "gpubp cuda, 1000 networks": Gpubp1000,
    "PyTorch eager": TorchOnGPU,
    "PyTorch CUDA graph": TorchGraph,
    "PyTorch CUDA graph, 50 steps": TorchGraphs,
    "PyTorch compiled": TorchCompiled,
    "JAX scan": Jax,
    "JAX scan, permuted": JaxPermuted,
}
# The checked mini-batches; of large networks fewer, as the reference trains them, too.
_CHECKED, _CHECKED_IF_LARGE, _LARGE = 100, 60, 10**6
_JUDGES = 10_000  # examples that the cost is of


def answer(
    peer_type: type[Peer], case: Case, seconds: float,
    more: Callable[[Any], dict[str, Any]] | None = None,
) -> None:  # fmt: skip
    """Check and prepare the peer and say so; when told to go on, time it and say what it took."""
    dataset, x, y = data(case)
    x, y = stand_in.few(x, y, case.batch)
    large = sum(k * n for k, n in pairwise(case.sizes)) > _LARGE
    steps = min(_CHECKED_IF_LARGE if large else _CHECKED, len(x) // 2 // case.batch)
    # Whole mini-batches, as some leave out what is left over, and less than an epoch.
    order = np.random.default_rng(1).permutation(len(x))[: steps * case.batch]
    reference = gpubp.Network(case.sizes, rng=0, backend="reference", dtype="float64")
    start = gpubp.Network(case.sizes, rng=0, backend="reference")
    for l, (w, b) in enumerate(zip(start.weights, start.biases, strict=True)):
        reference.weights[l], reference.biases[l] = w, b
    peer = peer_type(case, x, y, list(start.weights), list(start.biases))
    peer.epoch(order)
    found = cost(*peer.parameters(), x[:_JUDGES], y[:_JUDGES])
    how = {"epochs": 1, "batch_size": case.batch, "learning_rate": case.eta, "shuffle": False}
    reference.fit(x[order], y[order], **how)
    truth = cost(list(reference.weights), list(reference.biases), x[:_JUDGES], y[:_JUDGES])
    rng = np.random.default_rng(2)
    peer.epoch(rng.permutation(len(x)))  # compiles for this length, warms up
    told = more(peer) if more else {}
    ready = {"ready": True, "data": dataset, "cost": found, "truth": truth} | told
    print(json.dumps(ready), flush=True)
    sys.stdin.readline()
    times, until = [], time.perf_counter() + seconds
    while len(times) < 3 or time.perf_counter() < until:
        started = time.perf_counter()
        peer.epoch(rng.permutation(len(x)))
        steps = -(-len(x) // case.batch) * peer.epochs_at_once
        times.append((time.perf_counter() - started) / steps * 1e6)
    print(json.dumps({"microseconds": times}), flush=True)


def main() -> None:
    name, key, seconds = sys.argv[1:]
    with stand_in.gpu():
        answer(GPU_PEERS[name], CASES[key], float(seconds))


if __name__ == "__main__":
    main()
