"""Optimizers: the update rule, and the numbers of each of its steps.

``optimizer`` in :meth:`gpubp.Network.fit` is one of these or its name: "sgd", "adam", "adamw",
"nadam", "rmsprop", "adagrad", "lion". In what follows g is the gradient of the mean cost with that
of the penalties, eta the learning rate of the step and t its number in the run, from 1 on; all is
elementwise, and the state is zero at first. Definitions and defaults are PyTorch's, and where other
libraries or the papers differ it is said there.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from itertools import takewhile
from typing import Any, ClassVar

import numpy as np

from .arrays import check_number
from .errors import unknown
from .printable import brief
from .rule import PLAIN, UpdateRule

Columns = Mapping[str, Any]  # by the name of a number, its value in each of some steps, or in all


class Optimizer(ABC):
    """An update rule with its settings, which are the fields of its dataclass."""

    name: ClassVar[str]
    usual_rate: ClassVar[float] = 1e-3  # a learning rate that often does

    @property
    @abstractmethod
    def rule(self) -> UpdateRule:
        """The rule's formulas; optimizers that differ in nothing but numbers share them."""

    @abstractmethod
    def _numbers(self, t: Any, rates: Any) -> Columns:
        """The numbers of the steps ``t`` (int64, one after another) with these learning rates,
        which are eta where it is not among them. A number depends on its step alone, to the last
        bit, not on which others are asked for beside it."""

    def numbers(self, first: int, rates: Any) -> Any:
        """(steps, numbers) float64, as the rule names them: of as many steps as there are learning
        rates, of which the first is step ``first`` of the run."""
        rates = np.asarray(rates, np.float64)
        t = np.arange(first, first + len(rates))
        columns = {"eta": rates, **self._numbers(t, rates)}
        table = np.empty((len(rates), len(self.rule.numbers)))
        for i, name in enumerate(self.rule.numbers):
            table[:, i] = columns[name]
        return table

    @property
    def settings(self) -> dict[str, float | bool]:
        """By name, what it was made with."""
        return {f.name: getattr(self, f.name) for f in fields(self)}  # type: ignore[arg-type]

    @property
    def description(self) -> dict[str, Any]:
        """Name and settings, as a checkpoint has them."""
        return {"name": self.name, "settings": self.settings}

    def __str__(self) -> str:
        given = ", ".join(f"{name}={value!r}" for name, value in self.settings.items())
        return f"{self.name}({given})"


_NOTHING = 2.0**-60  # beside 1, in float64


def _powers(beta: float, t: Any) -> Any:
    """beta^t for the steps t; 0 where it no longer counts beside 1. By Python's power, as NumPy's
    may differ in the last bit from place to place of an array."""
    last = 0 if not beta else math.ceil(math.log(_NOTHING) / math.log(beta))
    powers = np.zeros(len(t))
    early = list(takewhile(lambda step: step <= last, t.tolist()))
    powers[: len(early)] = [beta**step for step in early]
    return powers


def _set(optimizer: Any, name: str, value: Any) -> None:
    object.__setattr__(optimizer, name, value)


def _share(optimizer: Any, *names: str) -> None:
    for name in names:
        value = check_number(getattr(optimizer, name), name)
        if not 0 <= value < 1:
            raise ValueError(f"{name}={value} must lie in [0, 1)")
        _set(optimizer, name, value)


def _not_negative(optimizer: Any, *names: str) -> None:
    for name in names:
        value = check_number(getattr(optimizer, name), name)
        if not 0 <= value < math.inf:
            raise ValueError(f"{name}={value} must be a finite number that is not negative")
        _set(optimizer, name, value)


def _positive(optimizer: Any, *names: str) -> None:
    """What a root is added to: where all gradients have been 0 it is what 0 is divided by."""
    _not_negative(optimizer, *names)
    for name in names:
        if not getattr(optimizer, name):
            raise ValueError(f"{name}=0.0 must be above 0: 0 would be divided by it")


def _flag(optimizer: Any, *names: str) -> None:
    for name in names:
        value = getattr(optimizer, name)
        if not isinstance(value, bool | np.bool_):
            raise ValueError(f"{name}={brief(value)} must be True or False")
        _set(optimizer, name, bool(value))


@dataclass(frozen=True)
class SGD(Optimizer):
    """Stochastic gradient descent, with momentum mu or without.

        plain      w <- w - eta g
        momentum   v <- mu v - eta g      w <- w + v
        Nesterov   v <- mu v - eta g      w <- w + mu v - eta g

    These are scikit-learn's and Keras' forms. PyTorch keeps v without eta, v <- mu v + g and
    w <- w - eta v, which is the same while eta stays as it is: here a change of eta acts on new
    gradients only. mu lies in [0, 1).

    Sources: Polyak, 1964; Sutskever et al., On the importance of initialization and momentum, 2013.
    """

    name: ClassVar[str] = "sgd"
    momentum: float = 0.0
    nesterov: bool = False

    def __post_init__(self) -> None:
        _share(self, "momentum")
        _flag(self, "nesterov")
        if self.nesterov and not self.momentum:
            raise ValueError("nesterov=True needs a momentum: pass for example momentum=0.9")

    @property
    def rule(self) -> UpdateRule:
        if not self.momentum:
            return PLAIN
        return _NESTEROV if self.nesterov else _MOMENTUM

    def _numbers(self, t: Any, rates: Any) -> Columns:
        return {"mu": self.momentum}


_VELOCITY = {"v": "mu*v - eta*g"}
_MOMENTUM = UpdateRule.of(("v",), ("eta", "mu"), {**_VELOCITY, "w": "w + v"})
_NESTEROV = UpdateRule.of(("v",), ("eta", "mu"), {**_VELOCITY, "w": "w + (mu*v - eta*g)"})

# With new = 1 - beta. The corrections of m and s are the same for all parameters, and so part of
# the numbers: eta m' / (sqrt(s') + epsilon) is eta_t m / (sqrt(s) + epsilon_t), where
# epsilon_t = epsilon sqrt(1 - beta_2^t) and eta_t = eta sqrt(1 - beta_2^t) / (1 - beta_1^t).
_MEANS = {"m": "m + new_1*(g - m)", "s": "s + new_2*(g*g - s)"}
_TOP = {"top": "max(top, s)"}
_ADAM = ("eta", "new_1", "new_2", "epsilon")


def _adam(amsgrad: bool, decaying: bool) -> UpdateRule:
    step = f"w - eta*m/(sqrt({'top' if amsgrad else 's'}) + epsilon)"
    return UpdateRule.of(
        ("m", "s", *(["top"] if amsgrad else [])), (*_ADAM, *(["decay"] if decaying else [])),
        {**_MEANS, **(_TOP if amsgrad else {}), "w": f"{step} - decay*w" if decaying else step},
    )  # fmt: skip


_RULES = {
    "adam": _adam(False, False),
    "amsgrad": _adam(True, False),
    "adamw": _adam(False, True),
    "adamw amsgrad": _adam(True, True),
    "nadam": UpdateRule.of(
        ("m", "s"), ("eta", "new_1", "new_2", "of_m", "epsilon"),
        {**_MEANS, "w": "w - (eta*g + of_m*m)/(sqrt(s) + epsilon)"},
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Adam(Optimizer):
    """Adam, and AMSGrad:

        m <- beta_1 m + (1 - beta_1) g        s <- beta_2 s + (1 - beta_2) g^2
        w <- w - eta m' / (sqrt(s') + epsilon),   m' = m / (1 - beta_1^t),  s' = s / (1 - beta_2^t)

    With ``amsgrad`` the largest s so far stands in place of s, before it is divided. The betas lie
    in [0, 1). This is the paper's Algorithm 1, and PyTorch's. With ``epsilon_hat`` it is the form
    of the paper's section 2, which Keras and scikit-learn take: epsilon is added to sqrt(s) instead
    of sqrt(s'), so that it weighs more in the first steps. Keras' epsilon is 1e-7.

    Sources: Kingma and Ba, Adam, 2015; Reddi et al., On the convergence of Adam and beyond, 2018.
    """

    name: ClassVar[str] = "adam"
    beta_1: float = 0.9
    beta_2: float = 0.999
    epsilon: float = 1e-8
    amsgrad: bool = False
    epsilon_hat: bool = False

    def __post_init__(self) -> None:
        _share(self, "beta_1", "beta_2")
        _positive(self, "epsilon")
        _flag(self, "amsgrad", "epsilon_hat")

    @property
    def rule(self) -> UpdateRule:
        return _RULES["amsgrad" if self.amsgrad else "adam"]

    def _numbers(self, t: Any, rates: Any) -> Columns:
        root = np.sqrt(1 - _powers(self.beta_2, t))
        return {
            "eta": rates * root / (1 - _powers(self.beta_1, t)),
            "new_1": 1 - self.beta_1, "new_2": 1 - self.beta_2,
            "epsilon": self.epsilon if self.epsilon_hat else self.epsilon * root,
        }  # fmt: skip


@dataclass(frozen=True)
class AdamW(Optimizer):
    """Adam with decoupled weight decay: as :class:`Adam`, and beside its step

        w <- w - eta weight_decay w

    of every weight and bias, as in PyTorch; Keras' exclude_from_weight_decay would leave biases
    out. Unlike l2 it does not pass through m and s, and is no part of the cost.

    Source: Loshchilov and Hutter, Decoupled weight decay regularization, 2019, whose eta and
    weight_decay are separate: here, as in PyTorch and Keras, the one multiplies the other.
    """

    name: ClassVar[str] = "adamw"
    weight_decay: float = 0.01
    beta_1: float = 0.9
    beta_2: float = 0.999
    epsilon: float = 1e-8
    amsgrad: bool = False

    def __post_init__(self) -> None:
        _not_negative(self, "weight_decay")
        Adam(self.beta_1, self.beta_2, self.epsilon, self.amsgrad)

    @property
    def rule(self) -> UpdateRule:
        return _RULES["adamw amsgrad" if self.amsgrad else "adamw"]

    def _numbers(self, t: Any, rates: Any) -> Columns:
        adam = Adam(self.beta_1, self.beta_2, self.epsilon)
        return {**adam._numbers(t, rates), "decay": rates * self.weight_decay}


@dataclass(frozen=True)
class NAdam(Optimizer):
    """Adam with Nesterov's momentum, whose mu_t rises with t:

        mu_t = beta_1 (1 - 1/2 0.96^(t momentum_decay))
        m <- beta_1 m + (1 - beta_1) g        s <- beta_2 s + (1 - beta_2) g^2
        w <- w - eta m' / (sqrt(s') + epsilon),   s' = s / (1 - beta_2^t)
        m' = (1 - mu_t) g / (1 - mu_1 ... mu_t) + mu_{t+1} m / (1 - mu_1 ... mu_{t+1})

    PyTorch's, whose m is Adam's; in the paper mu_t stands in place of beta_1 there as well. PyTorch
    keeps the product of the mu_t in its default dtype, usually float32, and here it is a float64.
    Keras' epsilon is 1e-7.

    Source: Dozat, Incorporating Nesterov momentum into Adam, 2016.
    """

    name: ClassVar[str] = "nadam"
    usual_rate: ClassVar[float] = 2e-3
    beta_1: float = 0.9
    beta_2: float = 0.999
    epsilon: float = 1e-8
    momentum_decay: float = 4e-3

    def __post_init__(self) -> None:
        _share(self, "beta_1", "beta_2")
        _positive(self, "epsilon")
        _not_negative(self, "momentum_decay")

    @property
    def rule(self) -> UpdateRule:
        return _RULES["nadam"]

    def _mu(self, t: int) -> float:
        return float(self.beta_1 * (1 - 0.5 * 0.96 ** (t * self.momentum_decay)))

    @cached_property
    def _products(self) -> Any:
        """mu_1 ... mu_t for t = 0, 1, ... up to where it no longer counts beside 1."""
        product, products = 1.0, [1.0]
        for t in range(1, 1 << 20):
            product *= self._mu(t)
            products.append(product)
            if product < _NOTHING:
                break
        return np.array([*products[:-1], 0.0])

    def _numbers(self, t: Any, rates: Any) -> Columns:
        mu = np.array([self._mu(step) for step in [*t.tolist(), int(t[-1]) + 1 if len(t) else 1]])
        products = self._products
        product = products[np.minimum(t, len(products) - 1)]
        root = np.sqrt(1 - _powers(self.beta_2, t))
        return {
            "eta": rates * root * (1 - mu[:-1]) / (1 - product),
            "of_m": rates * root * mu[1:] / (1 - product * mu[1:]),
            "new_1": 1 - self.beta_1, "new_2": 1 - self.beta_2, "epsilon": self.epsilon * root,
        }  # fmt: skip


@dataclass(frozen=True)
class RMSprop(Optimizer):
    """The gradient divided by the root of its mean square:

        s <- rho s + (1 - rho) g^2                 w <- w - eta g / (sqrt(s) + epsilon)
        centered:   h <- rho h + (1 - rho) g,      with s - h^2 in place of s
        momentum:   v <- mu v + g / (...)          w <- w - eta v

    PyTorch's, whose rho is called alpha. Keras' rho is 0.9 and its epsilon 1e-7, which stands
    within the root. Centered, rounding may make s - h^2 negative: it counts as 0 then, where
    PyTorch's gives NaN.

    Sources: Tieleman and Hinton, Lecture 6.5, 2012; Graves, Generating sequences with recurrent
    neural networks, 2013, for the centered one.
    """

    name: ClassVar[str] = "rmsprop"
    usual_rate: ClassVar[float] = 1e-2
    rho: float = 0.99
    epsilon: float = 1e-8
    momentum: float = 0.0
    centered: bool = False

    def __post_init__(self) -> None:
        _share(self, "rho", "momentum")
        _positive(self, "epsilon")
        _flag(self, "centered")

    @cached_property
    def rule(self) -> UpdateRule:
        centre = {"h": "h + new*(g - h)"} if self.centered else {}
        root = "sqrt(max(s - h*h, 0))" if self.centered else "sqrt(s)"
        step = f"g/({root} + epsilon)"
        moving = {"v": f"mu*v + {step}"} if self.momentum else {}
        return UpdateRule.of(
            ("s", *centre, *moving), ("eta", "new", "epsilon", *(["mu"] if moving else [])),
            {"s": "s + new*(g*g - s)", **centre, **moving,
             "w": "w - eta*v" if moving else f"w - eta*({step})"},
        )  # fmt: skip

    def _numbers(self, t: Any, rates: Any) -> Columns:
        return {"new": 1 - self.rho, "epsilon": self.epsilon, "mu": self.momentum}


@dataclass(frozen=True)
class Adagrad(Optimizer):
    """The gradient divided by the root of the sum of its squares:

        s <- s + g^2        w <- w - eta_t g / (sqrt(s) + epsilon),   eta_t = eta / (1 + (t - 1) d)

    with d = ``learning_rate_decay``, as in PyTorch. Keras begins with s = 0.1 and has its epsilon,
    1e-7, within the root.

    Source: Duchi, Hazan and Singer, Adaptive subgradient methods, 2011.
    """

    name: ClassVar[str] = "adagrad"
    usual_rate: ClassVar[float] = 1e-2
    epsilon: float = 1e-10
    learning_rate_decay: float = 0.0

    def __post_init__(self) -> None:
        _positive(self, "epsilon")
        _not_negative(self, "learning_rate_decay")

    @property
    def rule(self) -> UpdateRule:
        return _ADAGRAD

    def _numbers(self, t: Any, rates: Any) -> Columns:
        return {
            "eta": rates / (1 + (t - 1) * self.learning_rate_decay), "epsilon": self.epsilon
        }  # fmt: skip


_ADAGRAD = UpdateRule.of(
    ("s",), ("eta", "epsilon"), {"s": "s + g*g", "w": "w - eta*g/(sqrt(s) + epsilon)"}
)


@dataclass(frozen=True)
class Lion(Optimizer):
    """Steps of one size, by the sign of a mean of the gradient:

        c = beta_1 m + (1 - beta_1) g          w <- w - eta (sign(c) + weight_decay w)
        m <- beta_2 m + (1 - beta_2) g

    The paper's; PyTorch has none. Take a learning rate 3 to 10 times smaller than Adam's. The decay
    is of weights and biases, as :class:`AdamW`'s.

    Source: Chen et al., Symbolic discovery of optimization algorithms, 2023.
    """

    name: ClassVar[str] = "lion"
    usual_rate: ClassVar[float] = 1e-4
    beta_1: float = 0.9
    beta_2: float = 0.99
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        _share(self, "beta_1", "beta_2")
        _not_negative(self, "weight_decay")

    @property
    def rule(self) -> UpdateRule:
        return _LION

    def _numbers(self, t: Any, rates: Any) -> Columns:
        return {
            "new_1": 1 - self.beta_1, "new_2": 1 - self.beta_2, "weight_decay": self.weight_decay
        }  # fmt: skip


_LION = UpdateRule.of(
    ("m",), ("eta", "new_1", "new_2", "weight_decay"),
    {
        "c": "m + new_1*(g - m)",
        # A c that is no number is none as a sign either, so that training stops at it.
        "w": "w - eta*(where(c > 0, 1, where(c < 0, -1, c)) + weight_decay*w)",
        "m": "m + new_2*(g - m)",
    },
)  # fmt: skip

OPTIMIZERS: dict[str, type[Optimizer]] = {
    kind.name: kind for kind in (SGD, Adam, AdamW, NAdam, RMSprop, Adagrad, Lion)
}
# What other libraries call them.
_ELSEWHERE = {
    **dict.fromkeys(("gd", "gradientdescent", "momentum", "nesterov"),
                    "use 'sgd', with momentum= and nesterov="),
    **dict.fromkeys(("lbfgs", "adadelta", "adamax", "ftrl", "rprop", "muon"),
                    "it is none of gpubp's: gpubp.define_optimizer makes one from its formulas"),
    "amsgrad": "use gpubp.optimizer.Adam(amsgrad=True)",
}  # fmt: skip


@dataclass(frozen=True)
class Update:
    """All that a run does to the parameters: an optimizer's steps, beside the penalty
    1/2 l2 ||w||^2 + l1 |w|_1 of the weights, by a gradient of the norm ``clip_norm`` at most."""

    optimizer: Optimizer = SGD()
    l2: float = 0.0
    l1: float = 0.0
    clip_norm: float | None = None

    def __post_init__(self) -> None:
        _not_negative(self, "l2", "l1")
        if self.clip_norm is not None:
            _not_negative(self, "clip_norm")
            if not self.clip_norm:
                raise ValueError("clip_norm=0.0 must be above 0: no gradient would pass")

    @cached_property
    def rule(self) -> UpdateRule:
        """What is compiled: all but the numbers."""
        penalised, clipped = bool(self.l2 or self.l1), self.clip_norm is not None
        return self.optimizer.rule.beside(penalised=penalised, clipped=clipped)

    def numbers(self, first: int, rates: Any) -> Any:
        """Those of the rule's steps: see :meth:`Optimizer.numbers`."""
        own = self.optimizer.numbers(first, rates)
        more = [self.l2, self.l1] if self.rule.penalised else []
        more += [] if self.clip_norm is None else [self.clip_norm]
        return np.hstack([own, np.tile(more, (len(own), 1))]) if more else own


def get_optimizer(optimizer: str | Optimizer) -> Optimizer:
    """The optimizer of that name with its default settings, or the one given."""
    if isinstance(optimizer, Optimizer):
        return optimizer
    if isinstance(optimizer, type) and issubclass(optimizer, Optimizer):
        raise TypeError(f"optimizer={optimizer.__name__} is a class: pass {optimizer.__name__}()")
    if not isinstance(optimizer, str):
        raise TypeError(
            f"optimizer={brief(optimizer)} must be a name such as 'adam' or an object such as "
            "gpubp.optimizer.Adam()"
        )
    if optimizer not in OPTIMIZERS:
        raise unknown("optimizer", optimizer, OPTIMIZERS, _ELSEWHERE)
    return OPTIMIZERS[optimizer]()


def from_description(stored: Mapping[str, Any]) -> Optimizer | None:
    """The optimizer of that name and settings; None of one that is not built in."""
    kind = OPTIMIZERS.get(stored["name"])
    return None if kind is None else kind(**stored["settings"])


def choose_optimizer(optimizer: str | Optimizer, momentum: float, nesterov: bool) -> Optimizer:
    """The optimizer, of which momentum and nesterov are the short form for SGD."""
    found, short = get_optimizer(optimizer), SGD(momentum, nesterov)
    if short == SGD():
        return found
    if found != SGD():
        raise ValueError(
            f"momentum={momentum!r} and nesterov={nesterov!r} are settings of SGD, but the "
            f"optimizer is {found}: leave them out, or the optimizer"
        )
    return short
