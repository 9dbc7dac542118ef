"""Is a network able to learn? What slows it down, where, and by which equation.

Each finding is a number beside the bound that makes it one, and a sentence with its reason: every
factor of BP1, BP2 and BP4 that is close to 0 is a way to learn slowly.

Source: M. Nielsen, Neural Networks and Deep Learning, chapter 2 (on saturated output neurons and
inputs of low activation), chapter 3 (slow-down) and chapter 5 (vanishing and exploding gradients).
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from functools import cache
from textwrap import fill
from typing import TYPE_CHECKING, Any

import numpy as np

from gpubp import backprop as equations
from gpubp.activation import Activation, Softmax
from gpubp.arrays import as_input, as_targets, check_number, check_x
from gpubp.callbacks import Callback

from .double import QUIET, plain_kernels
from .text import plain, table

if TYPE_CHECKING:
    from gpubp.network import Network
    from gpubp.training import Training

SATURATED = 0.1  # sigma'(z) below this share of the activation's steepest slope
QUIET_INPUT = 0.01  # |a_in| below this hardly moves its weights
MOST = 0.5  # a share above this is worth a word
STUCK = 0.05  # of outputs: saturated, and further than 0.5 from their targets
SLOW, FAST = 0.01, 100.0  # ||dC/db^l|| relative to the output layer's
SMALL_STEP, LARGE_STEP = 1e-6, 0.1  # ||eta nabla_w|| relative to ||w||
_FIRST_PRICE = 0.006  # seconds that a first look is taken to cost
LARGE_INPUT = 10.0  # |x| beyond this saturates with weights of usual size


@dataclass(frozen=True)
class LayerHealth:
    """Layer l over the examples given; what needs y is ``None`` without it.

    ``saturated``: share of (example, neuron) with |sigma'(z)| under SATURATED = 0.1 of the
    activation's steepest slope; ``stuck``: of the output layer, share that is saturated and more
    than 0.5 from its target; ``dead``: neurons that are saturated for every example;
    ``quiet_inputs``: share of |a^{l-1}| under QUIET_INPUT = 0.01; ``silent_inputs``: inputs that
    are so for every example. ``largest_z``: the largest |z|; ``finite``: whether all z and a
    are. ``delta_norm``: root mean square of ||delta^l|| over the examples; ``speed``: ||dC/db^l||;
    ``relative_speed``: as a multiple of the output layer's; ``update_ratio``: ||eta dC/dw^l|| /
    ||w^l||.
    """

    l: int
    activation: str
    neurons: int
    inputs: int
    saturated: float | None
    stuck: float | None
    dead: int | None
    quiet_inputs: float
    silent_inputs: int
    largest_z: float
    finite: bool
    weight_norm: float
    delta_norm: float | None
    speed: float | None
    relative_speed: float | None
    update_ratio: float | None


@dataclass(frozen=True)
class Health:
    """Findings on ``examples`` examples: the inputs' range and spread, one :class:`LayerHealth`
    for each of l = 2 .. L, and ``advice`` in words (empty where nothing was found).

    ``learning_rate`` is what the update ratios are for; ``None``: they are for eta = 1.
    """

    examples: int
    low: float
    high: float
    mean: float
    deviation: float
    learning_rate: float | None
    layers: tuple[LayerHealth, ...]
    advice: tuple[str, ...]

    @property
    def eta(self) -> float:
        """The learning rate of the update ratios."""
        return 1.0 if self.learning_rate is None else self.learning_rate

    def to_dict(self) -> dict[str, Any]:
        """As JSON can hold it."""
        found: dict[str, Any] = plain(self)
        return found

    def __repr__(self) -> str:
        rows = [("layer", "activation", "saturated", "dead", "quiet inputs", "largest |z|",
                 "|delta|", "speed / output's", "|eta nabla_w| / |w|")]  # fmt: skip
        rows += [
            (f"{s.l}", s.activation, _share(s.saturated), _of(s.dead, s.neurons),
             _share(s.quiet_inputs), f"{s.largest_z:.3g}", _number(s.delta_norm),
             _number(s.relative_speed), _number(s.update_ratio))
            for s in self.layers
        ]  # fmt: skip
        head = (
            f"Health on {self.examples} examples; inputs from {self.low:g} to {self.high:g}, mean "
            f"{self.mean:.3g}, deviation {self.deviation:.3g}; eta {self.eta:g}"
        )
        said = [fill(line, 98, subsequent_indent="    ") for line in self.advice]
        return "\n".join([head, table(rows), *(said or ["nothing that slows learning"])])

    def plot(self, path: str | os.PathLike[str] | None = None) -> Any:
        """A picture of the shares and speeds, layer by layer: a matplotlib Figure, written to
        ``path`` if given."""
        from .pictures import draw_health

        return draw_health(self, path)


def _share(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}%"


def _of(count: int | None, whole: int) -> str:
    return "-" if count is None else f"{count} of {whole}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"


@cache
def _steepest(sigma: Activation) -> float:
    """The largest |sigma'| there is, by looking."""
    z = np.linspace(-20, 20, 4001)
    return float(np.abs(sigma.prime(np, z, sigma(np, z))).max())


@QUIET
def health(net: Network, x: Any, y: Any = None, learning_rate: float | None = None) -> Health:
    """What slows learning down, layer by layer, with advice.

    Args:
        net: any network; computed with its array library in its dtype, without compiled kernels.
        x: (m, n_1); a few hundred examples tell as much as all of them.
        y: (m,) or (m, n_L), for what depends on delta; or ``None``.
        learning_rate: eta of the update ratios; by default that of the last epoch trained. Without
            either they are those of eta = 1, and nothing is said about them.

    Raises:
        ValueError, TypeError: one sentence on what x and y must be.
    """
    xp = net.backend.xp
    if y is None:
        x = check_x(xp, x, net.sizes[0], net.dtype)
    else:
        x, y = net.check_data(x, y)
        y = as_targets(xp, y, net.sizes[-1], net.dtype)
    if learning_rate is None and len(net.history):
        learning_rate = net.history[-1].learning_rate
    eta = None if learning_rate is None else check_number(learning_rate, "learning_rate")
    x = as_input(xp, x, net.dtype)
    if y is None:
        z, a = equations.feedforward(xp, net.weights, net.biases, net.activations, x)
        delta = None
    else:
        g = equations.backprop(
            xp, plain_kernels(xp), net.weights, net.biases, net.activations, net.cost, x, y
        )
        z, a, delta = g.z, g.a, g.delta
    layers: list[LayerHealth] = []
    speeds = [] if delta is None else [_norm(xp, d.mean(axis=0)) for d in delta]
    for i, sigma in enumerate(net.activations):
        a_in, w, flat = x if i == 0 else a[i - 1], net.weights[i], None
        if not isinstance(sigma, Softmax):
            flat = xp.abs(sigma.prime(xp, z[i], a[i])) < SATURATED * _steepest(sigma)
        quiet = xp.abs(a_in) < QUIET_INPUT
        nabla_w = None if delta is None else delta[i].T @ a_in / len(x)
        layers.append(
            LayerHealth(
                l=i + 2,
                activation=sigma.name,
                neurons=w.shape[0],
                inputs=w.shape[1],
                saturated=None if flat is None else float(flat.mean()),
                stuck=None
                if flat is None or y is None or i + 1 < len(a)
                else float((flat & (xp.abs(a[i] - y) > 0.5)).mean()),
                dead=None if flat is None else int(flat.all(axis=0).sum()),
                quiet_inputs=float(quiet.mean()),
                silent_inputs=int(quiet.all(axis=0).sum()),
                largest_z=float(xp.abs(z[i]).max()),
                finite=bool(xp.isfinite(z[i]).all() and xp.isfinite(a[i]).all()),
                weight_norm=_norm(xp, w),
                delta_norm=None if delta is None else _norm(xp, delta[i]) / len(x) ** 0.5,
                speed=speeds[i] if speeds else None,
                relative_speed=_ratio(speeds[i], speeds[-1]) if speeds else None,
                update_ratio=None
                if nabla_w is None
                else _ratio((1.0 if eta is None else abs(eta)) * _norm(xp, nabla_w), _norm(xp, w)),
            )
        )
    found = Health(
        len(x), float(x.min()), float(x.max()), float(x.mean()), float(x.std()), eta,
        tuple(layers), (),
    )  # fmt: skip
    return Health(**{**vars(found), "advice": tuple(_advice(net, found))})


def _norm(xp: Any, array: Any) -> float:
    return float(xp.linalg.norm(array))


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else float("nan")


def _advice(net: Network, found: Health) -> list[str]:
    said = []
    largest = max(abs(found.low), abs(found.high))
    if largest > LARGE_INPUT:
        said.append(
            f"inputs reach {largest:.4g}: z^2 = w^2 x + b^2 grows with them and saturates layer 2; "
            "scale them to about 1 (uint8 images are read as x/255)"
        )
    for s in found.layers:
        said += _layer_advice(net, s) + (_step_advice(s) if found.learning_rate else [])
        if not s.finite:
            break  # what lies above follows from it
    return said


def _layer_advice(net: Network, s: LayerHealth) -> list[str]:
    if not s.finite:
        return [
            f"layer {s.l}: z^{s.l} = w^{s.l} a^{s.l - 1} + b^{s.l} overflows {net.dtype}: go back "
            "to earlier weights and lower the learning rate"
        ]
    said, is_output = [], s.l == len(net.sizes)
    one_sided = s.activation in ("relu", "leaky_relu", "elu", "selu", "gelu", "silu", "softplus")
    cancels = is_output and net.cost.simplify(net.activations[-1]) is not None
    if s.stuck is not None and s.stuck > STUCK and not cancels:
        said.append(
            f"layer {s.l}: {_share(s.stuck)} of the outputs are saturated on the wrong side: by "
            f"BP1, delta^{s.l} = grad_a C (x) sigma'(z^{s.l}), they learn slowly; a cost that "
            "cancels sigma', such as cross_entropy behind sigmoid, learns from them"
        )
    if s.saturated is not None and s.saturated > MOST and not (one_sided or is_output):
        said.append(
            f"layer {s.l}: {_share(s.saturated)} saturated, sigma' under {SATURATED:g} of its "
            f"steepest: learns slowly by BP2, delta^{s.l} = ((w^{s.l + 1})^T delta^{s.l + 1}) (x) "
            f"sigma'(z^{s.l}); smaller initial weights (init='scaled'), or scaled inputs, keep z "
            "near 0"
        )
    if s.dead and not is_output:
        what = "inactive" if one_sided else "saturated"
        said.append(
            f"layer {s.l}: {s.dead} of {s.neurons} neurons {what} for every example: sigma'(z) is "
            "about 0, so is delta (BP2), and hardly a gradient is left: lower the learning "
            + ("rate, or use leaky_relu or elu" if one_sided else "rate, or start from new weights")
        )
    if s.quiet_inputs > MOST:
        what = "usual for images with an empty background" if s.l == 2 else (
            f"the neurons of layer {s.l - 1} that are off take no part"
        )  # fmt: skip
        said.append(
            f"layer {s.l}: {_share(s.quiet_inputs)} of its inputs have |a| under {QUIET_INPUT:g} "
            f"({s.silent_inputs} of {s.inputs} for every example): their weights learn slowly, as "
            f"nabla_w = delta a_in (BP4); {what}"
        )
    if s.relative_speed is not None and s.relative_speed < SLOW:
        said.append(
            f"layer {s.l} learns at {s.relative_speed:.1e} of the output layer's speed: its "
            "gradient vanishes, as BP2 multiplies by w^T and sigma' at every layer; use fewer "
            "layers, an activation with slopes near 1 (relu, tanh), or init='glorot' or 'he'"
        )
    if s.relative_speed is not None and s.relative_speed > FAST:
        said.append(
            f"layer {s.l} learns at {s.relative_speed:.1e} times the output layer's speed: its "
            "gradient explodes, as BP2 multiplies by w^T at every layer; use smaller weights"
        )
    return said


def _step_advice(s: LayerHealth) -> list[str]:
    if s.update_ratio is not None and s.update_ratio > LARGE_STEP:
        return [
            f"layer {s.l}: one step changes the weights by {_share(s.update_ratio)} of their norm "
            "(w -= eta nabla_w): lower the learning rate"
        ]
    if s.update_ratio is not None and s.update_ratio < SMALL_STEP:
        return [
            f"layer {s.l}: one step changes the weights by {s.update_ratio:.1e} of their norm "
            "(w -= eta nabla_w): they hardly move; if the cost is still high, raise the rate"
        ]
    return []


class HealthMonitor(Callback):
    """:func:`health` while training: ``fit(..., callbacks=[HealthMonitor(x, y)])``.

    ``records`` holds (epoch, step, Health) in order. It looks whenever all its looks together
    would stay within ``budget`` of the time since training began, at the price of the last look.
    ``share`` is what it did cost: its own seconds, by the clock, as a part of all seconds since
    training began. Measured besides by training with it and without, in turns: runs of half a
    second, [784, 30, 10] on two cores, took 2.8% longer with it (the median of ten pairs; share
    said 2.8%, too). The weights are not touched.

    Args:
        x, y: the examples to look at, (m, n_1) and (m,) or (m, n_L), of which the first ``rows``
            are used.
        rows: at most so many examples.
        budget: the part of the training time that it may take.
    """

    def __init__(self, x: Any, y: Any = None, *, rows: int = 200, budget: float = 0.03) -> None:
        self.x, self.y = x[:rows], None if y is None else y[:rows]
        self.budget = check_number(budget, "budget")
        self.records: list[tuple[int, int, Health]] = []
        self.seconds = self.elapsed = self._price = 0.0
        self._started = time.perf_counter()

    def check(self, validated: bool) -> None:
        self.seconds = self.elapsed = 0.0
        self._started = time.perf_counter()

    @property
    def share(self) -> float:
        """The part of the time from the beginning of training to now that looking took."""
        return self.seconds / self.elapsed if self.elapsed else 0.0

    def on_interval(self, training: Training) -> None:
        now = time.perf_counter()
        self.elapsed = now - self._started
        if self.seconds + (self._price or _FIRST_PRICE) > self.budget * self.elapsed:
            return
        found = health(training.network, self.x, self.y)
        self.records.append((training.epoch, training.step, found))
        self._price = time.perf_counter() - now
        self.seconds += self._price
        self.elapsed += self._price

    def on_epoch(self, training: Training) -> None:
        self.on_interval(training)
