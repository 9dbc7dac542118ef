"""What the gates run: small networks that reach every part of every kernel.

    python gate.py [--numbers | --device] [CASE ...] [--mutant NAME ...]

trains them on the imagined GPU in a process of its own: for a sanitizer, whose report is the
result, and for mutants, which may do anything, each in a child of that process: what became of
them is printed as JSON. ``results`` does it in this process, on any backend.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from oracle import ROUNDED, normwise, sgd

import gpubp
from cuda_on_cpu.cupy_on_cpu import installed
from cuda_on_cpu.device import KernelError, imagined
from cuda_on_cpu.launch import SCHEDULES
from cuda_on_cpu.mutants import MUTANTS, planted
from gpubp.activation import ACTIVATIONS
from gpubp.cost import COSTS
from gpubp.examples import importance_of
from gpubp.optimizer import Adam, Update
from gpubp.parameters import Parameters
from gpubp.plan import Plan


@dataclass(frozen=True)
class Case:
    """A network and how it is trained; ``tile`` forces one of tiling's tiles on all products.

    ``stepper`` is what GPUBP_CUDA_STEPPER asks for; with ``cluster`` it is "resident", in a cluster
    of so many blocks, of so many ``threads`` if given."""

    sizes: tuple[int, ...]
    activations: tuple[str, ...] = ("tanh", "sigmoid")
    cost: str = "quadratic"
    batch: int = 9
    rows: int = 22
    dtype: str = "float32"
    update: Update = field(default_factory=Update)
    bytes: bool = True
    labels: bool = True
    tile: int | None = None
    precision: str | None = None
    stepper: str = "graph"
    multiprocessors: int = 8
    cluster: int | None = None
    threads: int | None = None
    weighted: bool = False


# With an epsilon that keeps a gradient of nearly 0 from taking whole steps by its rounding errors.
_ADAM, _AMSGRAD = Adam(epsilon=0.01), Adam(epsilon=0.01, amsgrad=True)
# Two or more tiles each way, several stages deep, with what hangs over the edges.
_TILED = {
    f"tile {tile}": Case(
        sizes, batch=20, rows=47, dtype=dtype, tile=tile, update=sgd(l2=0.03)
    )
    for tile, (sizes, dtype) in enumerate(
        [
            ((72, 33, 68), "float32"), ((38, 33, 36), "float64"), ((70, 20, 5), "float32"),
            ((70, 9, 17), "float64"),
        ]
    )
}  # fmt: skip
# Operands copied past the registers: several stages deep, with what hangs over the edges.
_COPIED = {
    "copied": Case((72, 68, 132, 12), ("tanh", "relu", "sigmoid"), batch=36, rows=80, tile=0,
                   update=sgd(l2=0.03)),
    "copied, floats": Case((100, 36), ("sigmoid",), batch=70, rows=141, tile=0, bytes=False,
                           labels=False),
}  # fmt: skip
_TENSOR_CORES = {
    f"{precision}, tile {tile}": Case(
        sizes, batch=20, rows=47, tile=tile, update=sgd(l2=0.03), precision=precision
    )
    for precision, tile, sizes in (
        ("tf32", 0, (72, 33, 68)), ("bf16", 0, (68, 70, 7)), ("tf32", 1, (37, 36, 5)),
        ("bf16", 2, (70, 20, 17)),
    )
}  # fmt: skip
# Few multiprocessors, so that each block has several tiles of each kind, and several rows.
_COOPERATIVE = {
    "cooperative": Case(
        (15, 17, 7), update=sgd(0.8, nesterov=True, l2=0.03, l1=0.01), multiprocessors=3,
        stepper="cooperative",
    ),
    "cooperative, deep": Case(
        (35, 17, 9, 20, 5), ("tanh", "gelu", "sigmoid", "sigmoid"), "cross_entropy", 11, 27,
        "float64", Update(_AMSGRAD), False, multiprocessors=4, stepper="cooperative",
    ),
    "cooperative, softmax": Case(
        (12, 36, 40), ("relu", "softmax"), "log_likelihood", 20, 47, bytes=False,
        multiprocessors=2, stepper="cooperative", weighted=True,
    ),
    "cooperative, one layer": Case(
        (7, 3), ("sigmoid",), batch=4, rows=9, labels=False, multiprocessors=5,
        stepper="cooperative",
    ),
}  # fmt: skip
CASES = {
    "ragged": Case((15, 17, 7), update=sgd(0.8, nesterov=True, l2=0.03, l1=0.01)),
    "many inputs": Case(
        (140, 3, 1), ("sigmoid", "sigmoid"), "cross_entropy", 10, 13, "float64", sgd(0.9),
        bytes=False, labels=False,
    ),
    "many rows": Case((5, 4, 3), batch=140, rows=141, dtype="float64", update=sgd(0.5)),
    "softmax": Case(
        (12, 9, 40), ("relu", "softmax"), "log_likelihood", 5, 11, update=Update(_ADAM)
    ),
    "one neuron": Case((1, 1), ("sigmoid",), batch=1, rows=3, labels=False),
    "clipped": Case(
        (12, 9, 40), ("relu", "softmax"), "log_likelihood", 5, 11,
        update=Update(_AMSGRAD, l2=0.03, clip_norm=0.5), weighted=True,
    ),
    **_TILED,
    **_COPIED,
    **_TENSOR_CORES,
    **_COOPERATIVE,
}  # fmt: skip
# On the resident Stepper: one block and clusters; deep, and without hidden layer; inputs that do
# not share out evenly, fewer neurons than blocks, more than threads; the last rows missing. A block
# of 64 threads has several rows a warp.
RESIDENT = {
    "resident": Case(
        (15, 17, 7), update=sgd(0.8, nesterov=True, l2=0.03, l1=0.01), cluster=1, threads=64
    ),
    "resident, deep": Case(
        (17, 9, 7, 5, 3), ("sigmoid", "tanh", "gelu", "softplus"), "huber", 7, 18, "float64",
        sgd(0.9, l2=0.03), bytes=False, labels=False, cluster=4, threads=64,
    ),
    "resident, softmax": Case(
        (12, 9, 40), ("relu", "softmax"), "log_likelihood", 5, 13,
        update=Update(_ADAM, l2=0.03), cluster=2, threads=64, weighted=True,
    ),
    "resident, narrow": Case(
        (15, 3, 1), ("tanh", "sigmoid"), "cross_entropy", 10, 24, labels=False, cluster=8,
        threads=64,
    ),
    "resident, wide": Case(
        (24, 300, 4), batch=5, rows=13, update=sgd(0.9), cluster=2, threads=64
    ),
    "resident, many rows": Case((9, 6, 4), batch=32, rows=70, cluster=2, threads=64),
    "resident, flat": Case(
        (20, 10), ("sigmoid",), batch=3, rows=8, dtype="float64", update=Update(_AMSGRAD),
        cluster=2, threads=64,
    ),
    "resident, one": Case((1, 1), ("sigmoid",), batch=1, rows=5, labels=False, cluster=1),
}  # fmt: skip
CASES |= RESIDENT
# A sanitizer takes its time for each thread: what needs a hundred blocks is left to the others, and
# of tensor cores one case stands for the rest, but under GPUBP_EVERYTHING=1.
SANITIZED = [name for name in CASES if name != "many rows"]
if os.environ.get("GPUBP_EVERYTHING") != "1":
    SANITIZED = [n for n in SANITIZED if n not in _TENSOR_CORES or n == "bf16, tile 0"]
# The measuring cases: too large for a sanitizer.
REAL = {
    "S": Case((784, 30, 10), ("sigmoid", "sigmoid"), batch=10, rows=25),
    "M": Case((784, 128, 10), ("sigmoid", "sigmoid"), batch=128, rows=150),
    "S resident": Case((784, 30, 10), ("sigmoid", "sigmoid"), batch=10, rows=45, cluster=8),
    "S one block": Case((784, 30, 10), ("sigmoid", "sigmoid"), batch=10, rows=45, cluster=1),
    "M, cooperative": Case(
        (784, 128, 10), ("sigmoid", "sigmoid"), batch=128, rows=150, stepper="cooperative",
        multiprocessors=44,
    ),
}  # fmt: skip


def results(
    case: Case, backend: gpubp.Backend, dtype: str | None = None, seed: int = 5, runs: int = 2
) -> Any:
    """Arrays by name: what training computes, and on graphs scoring and the two contract kernels.

    All that is drawn is exact in float32, so that every dtype starts from the same numbers.
    """
    dtype = dtype or case.dtype
    rng, sizes, xp = np.random.default_rng(seed), case.sizes, backend.xp
    # As many as fit an epoch's order at once: the resident kernel is to train on in one launch.
    n = case.batch + 3 if case.cluster is None else case.rows

    def draw(*shape: int) -> Any:
        return rng.standard_normal(shape).astype(np.float32).astype(dtype)

    x = rng.integers(0, 256, (n, sizes[0]), np.uint8) if case.bytes else draw(n, sizes[0])
    y: Any = rng.random((n, sizes[-1])).astype(np.float32).astype(dtype)
    y = rng.integers(0, sizes[-1], n) if case.labels else y
    parameters = Parameters(xp, sizes, dtype)
    start = draw(parameters.flat.size) / np.float32(np.sqrt(max(sizes)))
    parameters.flat[...] = backend.asarray(start.astype(np.float32).astype(dtype))
    rule = case.update.rule
    parameters.state = xp.zeros((len(rule.state), parameters.flat.size), dtype)
    activations = tuple(ACTIVATIONS[name] for name in case.activations)
    cost = COSTS[case.cost]
    precision = case.precision
    if precision is not None and backend.xp is np:  # the twin: plain expressions, rounded operands
        rounded = parameters.flat.view(ROUNDED[precision])
        parameters.__setstate__((sizes, rounded, parameters.state))
        precision = None
    plan = Plan(
        sizes, activations, cost, case.batch, dtype, rule, precision, weighted=case.weighted
    )
    x, y = backend.asarray(x), backend.asarray(y)
    stepper = backend.kernels.Stepper(plan, parameters, x, y)
    orders = [rng.integers(0, n, case.rows) for _ in range(runs)]
    # No two steps that follow each other have one rate.
    rates = 0.05 * (1 + 0.3 * (np.arange(-(-case.rows // case.batch)) % 4))
    weights = rng.integers(0, 4, n) if case.weighted else None
    costs = [
        stepper.run(
            order, case.update.numbers(1 + i * len(rates), rates),
            *(() if weights is None else (importance_of(weights[order], case.batch),)),
        )
        for i, order in enumerate(orders)
    ]  # fmt: skip
    named = {"parameters": parameters.flat}
    if rule.state:
        named["state"] = parameters.state
    if case.cluster is not None:
        arrays = {name: backend.asnumpy(array) for name, array in named.items()}
        return arrays | {"costs": np.concatenate(costs)}
    delta, a = (backend.asarray(draw(case.batch, m)) for m in sizes[-2:])
    named["product"], named["column sum"] = backend.kernels.outer_sum(delta, a)
    named["hadamard"] = backend.kernels.hadamard_sigma_prime(a, a, a, activations[0])
    if hasattr(backend.kernels, "score"):
        with pytest.MonkeyPatch.context() as patch:  # in two parts, the second of two examples
            part = (n - 2) * 2 * sum(sizes) * np.dtype(dtype).itemsize
            patch.setattr("gpubp.arrays._CHUNK_BYTES", part)
            total, right = backend.kernels.score(parameters, activations, cost, x, y)
    else:
        net = gpubp.Network(sizes, activation=activations, cost=cost, backend=backend, dtype=dtype)
        net.parameters.flat[...] = parameters.flat.view(np.ndarray)
        found = net.evaluate(x, y)
        total, right = found.cost * n, round((found.accuracy or 0) * n)
    arrays = {name: np.array(backend.asnumpy(array)) for name, array in named.items()}
    classes = case.labels and sizes[-1] > 1
    return (
        arrays
        | {"costs": np.concatenate([*costs, [total]])}
        | ({"right": right} if classes else {})
    )


@contextmanager
def forced(case: Case) -> Iterator[None]:
    """The case's tile, way to train and cluster, whatever the rules would choose; graphs of two
    steps, which these few mini-batches fill."""
    from gpubp.kernels.cuda import capacity, graphs, tiling

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(graphs, "GRAPH_STEPS", 2)
        if case.tile is not None:
            name = "_MMA_TILES" if case.precision else "_TILES"
            patch.setattr(tiling, name, (getattr(tiling, name)[case.tile],))
        if case.cluster is not None:
            patch.setattr(capacity, "CLUSTERS", (case.cluster,))
        if case.threads is not None:
            patch.setattr(capacity, "_THREADS", (case.threads,))
        stepper = case.stepper if case.cluster is None else "resident"
        patch.setenv("GPUBP_CUDA_STEPPER", stepper)
        yield


def on_cuda(
    case: Case, seed: int = 5, runs: int = 2, mutant: str | None = None, **settings: Any
) -> Any:
    """``results`` of the CUDA kernels, or of a mutant of them, on a machine of these settings."""
    settings = {"multiprocessors": case.multiprocessors} | settings
    with installed(), imagined(**settings), forced(case), planted(mutant):
        return results(case, gpubp.get_backend("cuda"), seed=seed, runs=runs)


def right(case: Case, found: Any) -> bool:
    """Whether these numbers agree with the reference to far more digits than a bug would leave."""
    truth = results(case, gpubp.get_backend("reference"), "float64")
    # An operand close to the middle between two numbers of few bits may be rounded either way.
    bound = 1e-12 if case.dtype == "float64" else 1e-4 if case.precision else 1e-5
    return all(normwise(found[name], truth[name]) <= bound for name in truth)


def judge(names: list[str], mutant: str | None) -> str | None:
    """Where the numbers are wrong first: the case and the schedule."""
    for name in names:
        for schedule in SCHEDULES:
            try:
                found = on_cuda(CASES[name], schedule=schedule, mutant=mutant)
            except (KernelError, ValueError) as error:  # NaN is no number of right answers, say
                return f"{name}, {schedule}: {error}"
            if not right(CASES[name], found):
                return f"{name}, {schedule}"
    return None


def train(names: list[str], mutant: str | None) -> None:
    """All that a sanitizer has to see: a full mini-batch and a smaller one. The resident kernel has
    buffers for two, and is to use one of them again."""
    for name in names:
        print(f"== {name}", file=sys.stderr, flush=True)
        case = CASES[name]
        full = 1 if case.cluster is None else 2
        on_cuda(replace(case, rows=full * case.batch + 3), runs=1, mutant=mutant)


NONE = "NONE"  # a child like a mutant's, of the kernels as they are
CPU_LIMIT, LIMIT = (
    40,
    150,
)  # seconds of a mutant, which needs about 5; the rest is for a busy machine


def alone(work: Callable[[], None]) -> tuple[int, str]:
    """Do it in a child of this process, which may die of it or never end: its exit status as
    subprocess has it, and what it wrote to stderr. It starts with all that is imported here.

    The limits are the kernel's: they hold however much of the child is overwritten."""
    with tempfile.TemporaryFile() as report:
        child = os.fork()
        if child == 0:
            status = 70
            try:
                resource.setrlimit(resource.RLIMIT_CPU, (CPU_LIMIT, CPU_LIMIT))
                resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
                signal.alarm(LIMIT)
                os.dup2(report.fileno(), 2)
                work()
                status = 0
            except SystemExit as error:
                print(error, file=sys.stderr)
                status = 1
            except BaseException as error:
                print(f"{type(error).__name__}: {error}", file=sys.stderr)
            finally:
                sys.stderr.flush()
                os._exit(status)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        report.seek(0)
        said = report.read().decode(errors="replace")
    if status < 0:
        ended = {signal.SIGKILL: f"no end within {CPU_LIMIT} s of CPU time",
                 signal.SIGXCPU: f"no end within {CPU_LIMIT} s of CPU time",
                 signal.SIGALRM: f"no end within {LIMIT} s"}  # fmt: skip
        said += f"\n{ended.get(-status, signal.Signals(-status).name)}"
    return status, said


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cases", nargs="*", default=SANITIZED)
    parser.add_argument(
        "--mutant", dest="mutants", action="append", metavar="NAME", choices=[*MUTANTS, NONE],
        help=f"run it as this of cuda_on_cpu/mutants.py, or as it is: {NONE}",
    )  # fmt: skip
    parser.add_argument("--numbers", action="store_true", help="judge them; exit 1 if wrong")
    parser.add_argument("--device", action="store_true", help="run on this machine's GPU")
    arguments = parser.parse_args()
    if arguments.device:
        for name in arguments.cases:
            case, cuda = replace(CASES[name], tile=None), gpubp.get_backend("cuda")
            if (case.cluster or 1) > 1 and int(cuda.xp.cuda.Device().compute_capability) < 90:
                print(f"{name}: this GPU has no clusters")
                continue
            with forced(case):
                if not right(case, results(case, cuda)):
                    sys.exit(f"numbers are wrong: {name}")
        return

    def work(mutant: str | None) -> None:
        if not arguments.numbers:
            train(arguments.cases, mutant)
        elif wrong := judge(arguments.cases, mutant):
            sys.exit(f"numbers are wrong: {wrong}")

    if arguments.mutants is None:
        work(None)
    else:
        mutants = {name: None if name == NONE else name for name in arguments.mutants}
        print(json.dumps({name: alone(lambda m=m: work(m)) for name, m in mutants.items()}))


if __name__ == "__main__":
    main()
