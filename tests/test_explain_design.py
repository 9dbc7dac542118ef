"""Designing an activation: each panel's numbers against what they claim to be."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import gpubp
from gpubp import explain


@pytest.fixture(scope="module")
def softsign() -> explain.Design:
    return explain.design("z/(1 + abs(z))", epochs=2, examples=600, backend="reference")


def test_formulas_and_slopes(softsign: explain.Design) -> None:
    own, sigmoid = softsign.portraits
    z = softsign.z
    assert np.abs(own.sigma - z / (1 + np.abs(z))).max() <= 1e-15
    assert np.abs(own.sigma_prime - 1 / (1 + np.abs(z)) ** 2).max() <= 1e-14
    assert np.abs(sigmoid.sigma - 1 / (1 + np.exp(-z))).max() <= 1e-15
    assert sigmoid.sigma_prime.max() == 0.25
    assert "delta^2 / delta^12" in repr(softsign)
    assert "z/(1 + abs(z))" in repr(softsign)
    assert json.dumps(softsign.to_dict(), allow_nan=False)


def test_delta_through_ten_layers(softsign: explain.Design) -> None:
    """Sigmoid's slope of at most 1/4 makes delta vanish; softsign's does not; a linear layer with
    orthogonal weights keeps its norm exactly."""
    own, sigmoid = softsign.portraits
    assert len(own.delta_norms) == 11
    assert own.delta_norms[-1] == sigmoid.delta_norms[-1] == 1
    assert np.all(np.diff(sigmoid.delta_norms) > 0)
    assert sigmoid.delta_norms[0] <= 0.3**9
    assert own.delta_norms[0] >= 100 * sigmoid.delta_norms[0]
    linear = explain.design("identity", "2*z", init="orthogonal", epochs=0, examples=10, layers=4)
    one, two = linear.portraits
    assert np.abs(one.delta_norms[:-1] / one.delta_norms[-2] - 1).max() <= 1e-12
    growth = two.delta_norms[:-2] / two.delta_norms[1:-1]
    assert np.abs(growth - 2).max() <= 1e-12  # sigma' = 2 at each layer


def test_training_is_fits(softsign: explain.Design) -> None:
    x, y = gpubp.data.digits28(1600, rng=0)
    for portrait in softsign.portraits:
        activation = "z/(1 + abs(z))" if portrait is softsign.portraits[0] else "sigmoid"
        net = gpubp.Network([784, 30, 30, 10], activation=[activation] * 2 + ["sigmoid"],
                            cost="cross_entropy", init="lecun", rng=0,
                            backend="reference")  # fmt: skip
        start = net.evaluate(x[600:], y[600:])
        history = net.fit(x[:600], y[:600], epochs=2, batch_size=10, learning_rate=0.1,
                          validation=(x[600:], y[600:]), progress=False)  # fmt: skip
        np.testing.assert_array_equal(portrait.costs, [start.cost, *history.validation_cost])
        assert portrait.accuracies[-1] == history.validation_accuracy[-1]
    own, sigmoid = softsign.portraits
    assert own.accuracies[-1] > sigmoid.accuracies[-1]
    assert not own.diverged


def test_what_diverges_is_shown_up_to_there() -> None:
    found = explain.design("z*z*z", epochs=3, examples=200, learning_rate=50.0)
    assert found.portraits[0].diverged
    assert len(found.portraits[0].accuracies) < 4
    assert "then diverged" in repr(found)
    found.plot()


def test_picture(softsign: explain.Design, tmp_path: Path) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    figure = softsign.plot(tmp_path / "design.png")
    assert (tmp_path / "design.png").read_bytes().startswith(b"\x89PNG")
    box = figure.get_tightbbox(FigureCanvasAgg(figure).get_renderer())
    width, height = figure.get_size_inches()
    assert -0.01 <= box.x0 <= box.x1 <= width + 0.01
    assert -0.01 <= box.y0 <= box.y1 <= height + 0.01


@pytest.mark.parametrize(
    ("activation", "kwargs", "words"),
    [
        ("softmax", {}, "not elementwise"),
        ("sigmiod", {}, "did you mean 'sigmoid'"),
        ("z +", {}, "not a complete expression"),
        ("tanh", {"layers": 0}, "layers=0"),
        ("tanh", {"examples": 3}, "examples=3"),
    ],
)
def test_refusals(activation: str, kwargs: dict[str, int], words: str) -> None:
    with pytest.raises(ValueError, match=words) as caught:
        explain.design(activation, **kwargs)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
