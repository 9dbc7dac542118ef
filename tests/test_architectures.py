"""Networks and runs that nobody chose: Hypothesis draws the architecture, the data and the rule."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from oracle import directional_errors, legal_pairs

import gpubp
from gpubp.activation import ACTIVATIONS
from gpubp.cost import COSTS
from gpubp.initialise import INITIALISERS

PAIRS = [pair for pair in legal_pairs() if pair[0].name in ACTIVATIONS and pair[1].name in COSTS]
HIDDEN = [name for name in ACTIVATIONS if name != "softmax"]
# relu and its like have corners, where a step along any direction says nothing about the slope.
SMOOTH = sorted(set(HIDDEN) - {"relu", "leaky_relu", "elu", "selu", "softsign"})
DRAWN = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True
)


@st.composite
def problems(draw: st.DrawFn, allowed: list[str]) -> dict[str, Any]:
    """A network's arguments with as many rows of data as it will be given."""
    sizes = draw(st.lists(st.integers(1, 37), min_size=2, max_size=5))
    pairs = [(output, cost) for output, cost in PAIRS if output.name in [*allowed, "softmax"]]
    output, cost = draw(st.sampled_from(pairs))
    activation = [draw(st.sampled_from(allowed)) for _ in sizes[2:]]
    return {
        "rows": draw(st.integers(1, 41)),
        "data": draw(st.sampled_from(["float", "uint8", "sparse"])),
        "labels": draw(st.booleans()) and sizes[-1] > 1,
        "network": {
            "sizes": sizes,
            "activation": [*activation, output.name],
            "cost": cost.name,
            "init": draw(st.sampled_from(sorted(INITIALISERS))),
            "rng": draw(st.integers(0, 1000)),
        },
    }


def data(problem: dict[str, Any]) -> tuple[Any, Any]:
    n_in, n_out = problem["network"]["sizes"][0], problem["network"]["sizes"][-1]
    rng = np.random.default_rng(problem["network"]["rng"])
    shape = problem["rows"], n_in
    if problem["data"] == "float":
        x: Any = rng.standard_normal(shape)
    else:
        x = rng.integers(0, 256, shape, dtype=np.uint8)
        if problem["data"] == "sparse":
            x[rng.random(shape) < 0.8] = 0
    y: Any = rng.random((shape[0], n_out))
    return x, rng.integers(0, n_out, shape[0]) if problem["labels"] else y


@DRAWN
@given(problems(SMOOTH))
def test_gradients_against_the_complex_step(problem: dict[str, Any]) -> None:
    x, y = data(problem)
    net = gpubp.Network(**problem["network"], dtype="float64", backend="cpu")
    g = net.backprop(x, y)
    inputs = x / 255 if x.dtype == np.uint8 else x
    targets = np.eye(net.sizes[-1])[y] if problem["labels"] else y
    errors = directional_errors(net, g, inputs, targets, np.random.default_rng(0))
    assert max(errors) <= 1e-9


@DRAWN
@given(
    problems(HIDDEN),
    st.integers(1, 17),
    st.sampled_from([0.0, 0.5, 0.9]),
    st.booleans(),
    st.sampled_from([0.0, 1e-3]),
    st.sampled_from([0.0, 1e-4]),
)
def test_training_equals_the_reference(
    problem: dict[str, Any], batch: int, momentum: float, nesterov: bool, l2: float, l1: float
) -> None:
    x, y = data(problem)
    nets = [
        gpubp.Network(**problem["network"], dtype="float64", backend=backend)
        for backend in ("reference", "cpu")
    ]
    histories = [
        net.fit(
            x, y, epochs=2, batch_size=min(batch, len(x)), learning_rate=1e-3, momentum=momentum,
            nesterov=nesterov and momentum > 0, l2=l2, l1=l1,
        )
        for net in nets
    ]  # fmt: skip
    truth, found = (net.parameters.flat for net in nets)
    assert np.linalg.norm(found - truth) <= 1e-11 * np.linalg.norm(truth)
    np.testing.assert_allclose(histories[1].cost, histories[0].cost, rtol=1e-10, atol=1e-12)
