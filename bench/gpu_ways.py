"""One way to train one network on a GPU: is it right, and how long does a step take?

    python bench/gpu_ways.py check WAY STEPS NETWORK ...
    python bench/gpu_ways.py time WAY SECONDS NETWORK

``check`` trains STEPS mini-batches twice, which must end at the same bits, no further from the
float64 reference than a small multiple of what plain NumPy in the same dtype is. ``time`` answers
as ``gpu_peers.py`` does, with the step that ``capacity.py`` and ``stepper.py`` predict beside it.
Ways: choice (gpubp's own), resident in 1, 2, 4 or 8 blocks, cooperative, graph, and for ``check``
fleet (three networks in one launch). Each answer is a line of JSON.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

import numpy as np
import stand_in
from gpu_peers import GpubpCuda, answer
from peers import CASES, Case

import gpubp
from gpubp.optimizer import Adam

WAYS = (
    "choice", "resident, 1 block", "resident, 2 blocks", "resident, 4 blocks",
    "resident, 8 blocks", "cooperative", "graph",
)  # fmt: skip
# What is timed, by the names that bench/capacity.py has for it.
TIMED = {key: CASES[key] for key in ("S", "M", "L")} | {
    "S, batch 32": Case((784, 30, 10), 32, 3.0),
    "[784, 100, 10], batch 10": Case((784, 100, 10), 10, 3.0),
    "[784, 100, 100, 10], batch 100": Case((784, 100, 100, 10), 100, 0.5),
}
# What is checked: case S, and two ragged networks that reach every corner of a tile. No l1 among
# them: a weight that it holds at zero has the sign of a rounding error, and goes its own way.
CHECKED: dict[str, dict[str, Any]] = {
    "S": {"sizes": (784, 30, 10), "batch_size": 10, "learning_rate": 3.0},
    "ragged": {
        "sizes": (15, 17, 7), "activation": "tanh", "batch_size": 9, "learning_rate": 0.1,
        "momentum": 0.8, "nesterov": True, "l2": 0.01,
    },
    "deep": {
        "sizes": (37, 9, 12, 5, 11), "activation": ["gelu", "sigmoid", "relu", "softmax"],
        "cost": "log_likelihood", "batch_size": 7, "learning_rate": 0.01,
        "optimizer": Adam(epsilon=1e-3),
    },
}  # fmt: skip
_OF_NETWORK = ("activation", "cost")
_MULTIPLE, _LEAST = 4.0, 2e-6  # of plain float32's own error, and what is always allowed
_TOGETHER = 3  # networks of the fleet


def ask_for(way: str) -> str | None:
    """Have the next Steppers train that way; why this GPU cannot, or None."""
    from gpubp.kernels.cuda import capacity
    from gpubp.kernels.cuda.resident import device_limits

    kind, _, blocks = way.partition(", ")
    os.environ["GPUBP_CUDA_STEPPER"] = {"choice": "", "fleet": ""}.get(kind, kind)
    if blocks:
        cluster = int(blocks.split()[0])
        if cluster > 1 and not device_limits().clusters:
            return "this GPU has no clusters"
        capacity.CLUSTERS = (cluster,)
    return None


def _trained(name: str, backend: str, dtype: str, steps: int, networks: int, say: Any) -> Any:
    """The flat weights of networks trained from seeds 0, 1, ..., a row each."""
    given = dict(CHECKED[name])
    how = {key: given.pop(key) for key in _OF_NETWORK if key in given}
    sizes = given.pop("sizes")
    rng = np.random.default_rng(7)
    n = steps * given["batch_size"] - 2  # the last mini-batch is a smaller one
    x, y = rng.integers(0, 256, (n, sizes[0]), np.uint8), rng.integers(0, sizes[-1], n)
    fleet = gpubp.Fleet.of(sizes, rng=range(networks), backend=backend, dtype=dtype, **how)
    start = gpubp.Fleet.of(sizes, rng=range(networks), backend="reference", **how)
    for network, same in zip(fleet, start, strict=True):
        for l, (w, b) in enumerate(zip(same.weights, same.biases, strict=True)):
            network.weights[l], network.biases[l] = w.astype(dtype), b.astype(dtype)
    home = fleet[0].backend
    x, y = (home.asarray(array) for array in (x, y))
    train = fleet.fit if networks > 1 else fleet[0].fit
    for epochs in (0, 1):  # without an epoch it compiles
        train(x, y, epochs=epochs, shuffle=False, progress=False, **given)
        say()
    return np.array([home.asnumpy(network.parameters.flat) for network in fleet])


def check(way: str, steps: int, name: str) -> dict[str, Any]:
    """Whether the way trains the network right, and to the same bits again."""
    networks = _TOGETHER if way == "fleet" else 1

    def say() -> None:
        print(json.dumps({"network": name}), flush=True)  # it is alive

    def error(found: Any, wanted: Any) -> float:
        return float(np.linalg.norm(found - wanted) / np.linalg.norm(wanted))

    found = _trained(name, "cuda", "float32", steps, networks, say)
    again = _trained(name, "cuda", "float32", steps, networks, say)
    exact = _trained(name, "reference", "float64", steps, networks, say)
    plain = _trained(name, "reference", "float32", steps, networks, say)
    ours, numpys = error(found, exact), error(plain, exact)
    return {
        "network": name, "error": ours, "numpys": numpys,
        "right": bool(ours <= max(_MULTIPLE * numpys, _LEAST)),
        "repeats": bool((found == again).all()),
    }  # fmt: skip


def predicted(peer: GpubpCuda) -> tuple[str, float]:
    """(the way it trains, seconds a step as predicted)."""
    from gpubp.kernels.cuda.stepper import predicted as seconds

    stepper = peer.stepper
    return stepper.way, seconds(stepper.plan, peer.x, peer.y)[0][stepper.way]


def main() -> None:
    what, way, amount, *names = sys.argv[1:]
    with stand_in.gpu():
        why_not = ask_for(way)
        if why_not:
            print(json.dumps({"left out": why_not}))
        elif what == "check":
            for name in names:
                print(json.dumps(check(way, int(amount), name)), flush=True)
        else:
            GpubpCuda.way = os.environ["GPUBP_CUDA_STEPPER"]

            def more(peer: Any) -> dict[str, Any]:
                taken, seconds = predicted(peer)
                return {"way": taken, "predicted": 1e6 * seconds}

            answer(GpubpCuda, TIMED[names[0]], float(amount), more)


if __name__ == "__main__":
    main()
