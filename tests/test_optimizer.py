"""Optimizers: against PyTorch's, against the papers' algorithms written out here, and what is
refused."""

from __future__ import annotations

import math
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from oracle import flat, host, normwise

import gpubp
from gpubp.optimizer import (
    OPTIMIZERS,
    SGD,
    Adagrad,
    Adam,
    AdamW,
    Lion,
    NAdam,
    Optimizer,
    RMSprop,
    Update,
    from_description,
)
from gpubp.own_optimizer import define_optimizer
from gpubp.schedule import OneCycle

RNG = np.random.default_rng(71)
X, Y = RNG.standard_normal((40, 13)), RNG.random((40, 4))
EPOCHS, BATCH = 125, 10  # 500 steps

# Each: the optimizer, a learning rate at which the run is not chaotic, and PyTorch's name for it.
CASES: dict[str, tuple[Optimizer, float, str, dict[str, Any]]] = {
    "sgd": (SGD(), 0.1, "SGD", {}),
    "momentum": (SGD(0.9), 0.1, "SGD", {"momentum": 0.9}),
    "nesterov": (SGD(0.9, True), 0.1, "SGD", {"momentum": 0.9, "nesterov": True}),
    "adam": (Adam(), 0.002, "Adam", {}),
    "adam-others": (Adam(0.8, 0.95, 1e-4), 0.002, "Adam", {"betas": (0.8, 0.95), "eps": 1e-4}),
    "amsgrad": (Adam(amsgrad=True), 0.002, "Adam", {"amsgrad": True}),
    "adamw": (AdamW(), 0.002, "AdamW", {}),
    "adamw-amsgrad": (
        AdamW(0.1, amsgrad=True), 0.002, "AdamW", {"weight_decay": 0.1, "amsgrad": True}
    ),
    "nadam": (NAdam(), 0.002, "NAdam", {}),
    "nadam-others": (
        NAdam(0.8, 0.99, 1e-6, 0.01), 0.002, "NAdam",
        {"betas": (0.8, 0.99), "eps": 1e-6, "momentum_decay": 0.01},
    ),
    "rmsprop": (RMSprop(), 0.001, "RMSprop", {}),
    "rmsprop-momentum-centered": (
        RMSprop(0.9, 1e-6, 0.5, True), 0.001, "RMSprop",
        {"alpha": 0.9, "eps": 1e-6, "momentum": 0.5, "centered": True},
    ),
    "adagrad": (Adagrad(), 0.1, "Adagrad", {}),
    "adagrad-decay": (Adagrad(1e-8, 0.01), 0.1, "Adagrad", {"eps": 1e-8, "lr_decay": 0.01}),
}  # fmt: skip


def trained(
    backend: Any, optimizer: Any, rate: Any, dtype: str = "float64", epochs: int = EPOCHS,
    **more: Any,
) -> gpubp.Network:  # fmt: skip
    net = gpubp.Network([13, 17, 4], activation="tanh", rng=1, dtype=dtype, backend=backend)
    how = {"batch_size": BATCH, "shuffle": False} | more
    net.fit(X, Y, epochs=epochs, learning_rate=rate, optimizer=optimizer, **how)
    return net


@pytest.mark.long_on_the_chip(*CASES)
@pytest.mark.long_on_the_stand_in(*CASES)
@pytest.mark.parametrize("name", CASES)
def test_500_steps_of_pytorch(name: str, backend: gpubp.Backend) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed: it is a check only")
    optimizer, rate, theirs, settings = CASES[name]
    start = gpubp.Network([13, 17, 4], activation="tanh", rng=1, dtype="float64")
    tensors = [
        torch.tensor(array, requires_grad=True)
        for pair in zip(start.weights, start.biases, strict=True) for array in pair
    ]  # fmt: skip
    w_2, b_2, w_3, b_3 = tensors
    other = getattr(torch.optim, theirs)(tensors, lr=rate, **settings)
    x, y = torch.tensor(X), torch.tensor(Y)
    torch.set_default_dtype(torch.float64)  # in which NAdam keeps the product of its mu_t
    try:
        for i in [*range(0, len(X), BATCH)] * EPOCHS:
            other.zero_grad()
            a = torch.tanh(torch.tanh(x[i : i + BATCH] @ w_2.T + b_2) @ w_3.T + b_3)
            (0.5 * ((a - y[i : i + BATCH]) ** 2).sum() / BATCH).backward()
            other.step()
    finally:
        torch.set_default_dtype(torch.float32)
    net = trained(backend, optimizer, rate)
    for found, right in zip(host(net, [*net.weights, *net.biases]), (w_2, w_3, b_2, b_3),
                            strict=True):  # fmt: skip
        assert normwise(found, right.detach().numpy()) <= 1e-12


# The algorithms, one parameter at a time: (w, g, eta, t, memory) -> w, memory a dict for each.


def momentum(w: float, g: float, eta: float, t: int, old: dict[str, float]) -> float:
    old["v"] = 0.9 * old.get("v", 0.0) - eta * g
    return w + old["v"]


def nesterov(w: float, g: float, eta: float, t: int, old: dict[str, float]) -> float:
    before = old.get("v", 0.0)
    old["v"] = 0.9 * before - eta * g
    return w - 0.9 * before + 1.9 * old["v"]  # at the point looked ahead to, as it is kept


def adam(w: float, g: float, eta: float, t: int, old: dict[str, float]) -> float:
    old["m"] = 0.9 * old.get("m", 0.0) + 0.1 * g
    old["v"] = 0.999 * old.get("v", 0.0) + 0.001 * g * g
    m, v = old["m"] / (1 - 0.9**t), old["v"] / (1 - 0.999**t)
    return w - eta * m / (math.sqrt(v) + 1e-8)


def amsgrad(w: float, g: float, eta: float, t: int, old: dict[str, float]) -> float:
    old["m"] = 0.9 * old.get("m", 0.0) + 0.1 * g
    old["v"] = 0.999 * old.get("v", 0.0) + 0.001 * g * g
    old["top"] = max(old.get("top", 0.0), old["v"])
    m, v = old["m"] / (1 - 0.9**t), old["top"] / (1 - 0.999**t)
    return w - eta * m / (math.sqrt(v) + 1e-8)


def adamw(w: float, g: float, eta: float, t: int, old: dict[str, float]) -> float:
    return adam(w * (1 - eta * 0.01), g, eta, t, old)


def nadam(w: float, g: float, eta: float, t: int, old: dict[str, float]) -> float:
    mu, following = (0.9 * (1 - 0.5 * 0.96 ** (0.004 * s)) for s in (t, t + 1))
    old["product"] = old.get("product", 1.0) * mu
    old["m"] = 0.9 * old.get("m", 0.0) + 0.1 * g
    old["v"] = 0.999 * old.get("v", 0.0) + 0.001 * g * g
    ahead = (1 - mu) * g / (1 - old["product"])
    ahead += following * old["m"] / (1 - old["product"] * following)
    return w - eta * ahead / (math.sqrt(old["v"] / (1 - 0.999**t)) + 1e-8)


def rmsprop(w: float, g: float, eta: float, t: int, old: dict[str, float]) -> float:
    old["v"] = 0.99 * old.get("v", 0.0) + 0.01 * g * g
    return w - eta * g / (math.sqrt(old["v"]) + 1e-8)


def centered(w: float, g: float, eta: float, t: int, old: dict[str, float]) -> float:
    old["v"] = 0.9 * old.get("v", 0.0) + 0.1 * g * g
    old["mean"] = 0.9 * old.get("mean", 0.0) + 0.1 * g
    old["b"] = 0.5 * old.get("b", 0.0) + g / (math.sqrt(old["v"] - old["mean"] ** 2) + 1e-6)
    return w - eta * old["b"]


def adagrad(w: float, g: float, eta: float, t: int, old: dict[str, float]) -> float:
    old["sum"] = old.get("sum", 0.0) + g * g
    return w - eta * g / (math.sqrt(old["sum"]) + 1e-10)


def adagrad_decay(w: float, g: float, eta: float, t: int, old: dict[str, float]) -> float:
    old["sum"] = old.get("sum", 0.0) + g * g
    return w - eta / (1 + 0.01 * (t - 1)) * g / (math.sqrt(old["sum"]) + 1e-8)


def lion(w: float, g: float, eta: float, t: int, old: dict[str, float]) -> float:
    m = old.get("m", 0.0)
    old["m"] = 0.99 * m + 0.01 * g
    return w * (1 - eta * 0.1) - eta * float(np.sign(0.9 * m + 0.1 * g))


Algorithm = Callable[[float, float, float, int, dict[str, float]], float]
PAPERS: dict[str, tuple[Algorithm, Optimizer, float]] = {
    "momentum": (momentum, SGD(0.9), 0.1),
    "nesterov": (nesterov, SGD(0.9, True), 0.1),
    "adam": (adam, Adam(), 0.01),
    "amsgrad": (amsgrad, Adam(amsgrad=True), 0.01),
    "adamw": (adamw, AdamW(), 0.01),
    "nadam": (nadam, NAdam(), 0.01),
    "rmsprop": (rmsprop, RMSprop(), 0.001),
    "rmsprop-centered": (centered, RMSprop(0.9, 1e-6, 0.5, True), 0.001),
    "adagrad": (adagrad, Adagrad(), 0.1),
    "adagrad-decay": (adagrad_decay, Adagrad(1e-8, 0.01), 0.1),
    "lion": (lion, Lion(weight_decay=0.1), 1e-3),
}


def by_hand(algorithm: Algorithm, rates: list[float]) -> tuple[Any, Any]:
    """(w, b) of one layer of two outputs after a step at each rate, from gradients in plain loops;
    the cost is 1/2 ||w x + b - y||^2 of an example, with l2 = 0.03 and l1 = 0.01."""
    net = gpubp.Network([3, 2], activation="identity", rng=5, dtype="float64")
    w, b = net.weights[0].copy(), net.biases[0].copy()
    memory: dict[tuple[int, ...], dict[str, float]] = {}
    for t, eta in enumerate(rates, 1):
        x, y = X[(t - 1) % 40, :3], Y[(t - 1) % 40, :2]
        delta = w @ x + b - y
        for j in range(2):
            for k in range(3):
                g = delta[j] * x[k] + 0.03 * w[j, k] + 0.01 * np.sign(w[j, k])
                w[j, k] = algorithm(w[j, k], g, eta, t, memory.setdefault((j, k), {}))
            b[j] = algorithm(b[j], delta[j], eta, t, memory.setdefault((j,), {}))
    return w, b


@pytest.mark.parametrize("name", PAPERS)
def test_the_papers_algorithm_with_a_rate_of_its_own_each_step(
    name: str, backend: gpubp.Backend
) -> None:
    """The schedule is asked at every one of the 40 steps of an epoch, which no cut shows."""
    algorithm, optimizer, peak = PAPERS[name]
    schedule = OneCycle(peak, 3, per_epoch=40)
    history = gpubp.History()
    w, b = by_hand(algorithm, [schedule.rate(t / 40, history) for t in range(120)])
    net = gpubp.Network([3, 2], activation="identity", rng=5, dtype="float64", backend=backend)
    net.fit(
        X[:, :3], Y[:, :2], epochs=3, batch_size=1, learning_rate=schedule, optimizer=optimizer,
        l2=0.03, l1=0.01, shuffle=False,
    )  # fmt: skip
    (found,), (bias,) = host(net, net.weights), host(net, net.biases)
    assert normwise(found, w) <= 1e-11  # of centered: s - h^2 has lost digits
    assert normwise(bias, b) <= 1e-11


@pytest.mark.parametrize("clip_norm", [0.01, 1.5, 1e3])
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_a_clipped_gradient(optimizer: str, clip_norm: float, backend: gpubp.Backend) -> None:
    """The length of the whole gradient of cost and penalties, by the equations; at 1.5 some
    mini-batches are clipped, and others are not."""
    ours = trained(backend, optimizer, 0.01, epochs=3, l2=0.03, clip_norm=clip_norm)
    net = gpubp.Network([13, 17, 4], activation="tanh", rng=1, dtype="float64", backend="reference")
    flat_, rule, clips = net.parameters.flat, OPTIMIZERS[optimizer]().rule, []
    state = np.zeros((len(rule.state), flat_.size))
    for t in range(1, 13):
        rows = slice((t - 1) % 4 * BATCH, (t - 1) % 4 * BATCH + BATCH)
        found = net.backprop(X[rows], Y[rows])
        nabla_w = [g + 0.03 * w for g, w in zip(found.nabla_w, net.weights, strict=True)]
        g = np.concatenate([part.ravel() for part in (*nabla_w, *found.nabla_b)])
        clips.append(min(1.0, clip_norm / (math.sqrt(math.fsum(g * g)) + 1e-6)))
        numbers = OPTIMIZERS[optimizer]().numbers(t, [0.01])[0]
        flat_[...], state, _ = rule.applied(rule.steps, flat_, clips[-1] * g, state, numbers)
    some, every = min(clips) < 1, max(clips) < 1
    assert (some, every) == {0.01: (True, True), 1.5: (True, False)}.get(clip_norm, (False, False))
    assert normwise(flat(ours), flat_) <= 1e-13


def test_clipping_by_pytorch(backend: gpubp.Backend) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed: it is a check only")
    net = gpubp.Network([13, 4], activation="tanh", rng=1, dtype="float64", backend=backend)
    w, b = (torch.tensor(host(net, part)[0], requires_grad=True) for part in
            (net.weights, net.biases))  # fmt: skip
    other = torch.optim.SGD([w, b], lr=0.1, momentum=0.9)
    for i in [*range(0, 40, 10)] * 5:
        other.zero_grad()
        a = torch.tanh(torch.tensor(X[i : i + 10]) @ w.T + b)
        (0.5 * ((a - torch.tensor(Y[i : i + 10])) ** 2).sum() / 10).backward()
        torch.nn.utils.clip_grad_norm_([w, b], 0.3)
        other.step()
    how: dict[str, Any] = {"epochs": 5, "batch_size": 10, "learning_rate": 0.1, "shuffle": False}
    net.fit(X, Y, **how, momentum=0.9, clip_norm=0.3)
    assert normwise(host(net, net.weights)[0], w.detach().numpy()) <= 1e-13


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_float32_is_as_good_as_numpys(name: str, backend: gpubp.Backend) -> None:
    """Within twice the error of the reference in float32, over 20 steps."""
    rate = {"sgd": 0.1, "lion": 1e-4}.get(name, 1e-3)
    right = trained("reference", name, rate, epochs=5)
    errors = [
        normwise(flat(trained(where, name, rate, "float32", epochs=5)), flat(right))
        for where in (backend, "reference")
    ]
    assert errors[0] <= 2 * errors[1] + 1e-7


@pytest.mark.parametrize("optimizer", ["adam", RMSprop(momentum=0.5, centered=True), Lion()])
def test_state_is_saved_and_resumed_bit_for_bit(
    optimizer: Any, backend: gpubp.Backend, tmp_path: Path
) -> None:
    whole = trained(backend, optimizer, 0.01, "float32", epochs=4)
    net = trained(backend, optimizer, 0.01, "float32", epochs=2)
    net.save(tmp_path / "net")
    loaded = gpubp.load(tmp_path / "net", backend)
    assert loaded.training is not None
    assert net.training is not None
    assert loaded.training.optimizer == net.training.optimizer
    for one in (loaded, net):
        one.fit(
            X, Y, epochs=4, batch_size=BATCH, learning_rate=0.01, optimizer=optimizer,
            shuffle=False, resume=True,
        )  # fmt: skip
        np.testing.assert_array_equal(flat(one), flat(whole))
        state = backend.asnumpy(whole.parameters.state)
        np.testing.assert_array_equal(backend.asnumpy(one.parameters.state), state)


def test_a_new_fit_begins_with_an_empty_state(backend: gpubp.Backend) -> None:
    twice = trained(backend, "adam", 0.01, epochs=1)
    once = gpubp.Network([13, 17, 4], activation="tanh", dtype="float64", backend=backend, rng=1)
    once.parameters.flat[...] = twice.parameters.flat
    for net in (twice, once):
        how: dict[str, Any] = {"epochs": 2, "batch_size": 10, "learning_rate": 0.01}
        net.fit(X, Y, **how, optimizer="nadam", shuffle=False)
    np.testing.assert_array_equal(flat(twice), flat(once))


def test_fleet_takes_one_or_a_list() -> None:
    chosen: list[Any] = ["adam", SGD(0.9), Lion(), "sgd"]
    fleet = gpubp.Fleet.of([13, 17, 4], rng=range(4))
    fleet.fit(X, Y, epochs=2, batch_size=10, learning_rate=0.01, optimizer=chosen)
    for i, optimizer in enumerate(chosen):
        alone = gpubp.Network([13, 17, 4], rng=i)
        alone.fit(X, Y, epochs=2, batch_size=10, learning_rate=0.01, optimizer=optimizer)
        np.testing.assert_array_equal(flat(fleet[i]), flat(alone))
    all_adam = gpubp.Fleet.of([13, 17, 4], rng=range(2))
    all_adam.fit(X, Y, epochs=2, batch_size=10, learning_rate=0.01, optimizer="adam")
    np.testing.assert_array_equal(flat(all_adam[0]), flat(fleet[0]))


def test_numbers_of_a_step_do_not_depend_on_where_a_run_is_cut() -> None:
    rates = np.linspace(0.1, 0.2, 900)
    for name in OPTIMIZERS:
        update = Update(OPTIMIZERS[name](), l2=0.5, l1=0.25)
        whole = update.numbers(1, rates)
        pieces = [update.numbers(1 + i, rates[i : i + 7]) for i in range(0, 900, 7)]
        np.testing.assert_array_equal(np.concatenate(pieces), whole)
        assert whole.shape == (900, len(update.rule.numbers))
        np.testing.assert_array_equal(whole[:, -2:], [[0.5, 0.25]] * 900)
        assert np.isfinite(whole).all()
    far = Adam().numbers(10**7, [0.1])
    assert dict(zip(Adam().rule.numbers, far[0], strict=True))["eta"] == 0.1


# One's own

HEAVY = {"v": "mu*v - eta*g", "w": "w + v"}


def test_ones_own_is_what_the_formulas_say(backend: gpubp.Backend, tmp_path: Path) -> None:
    own = define_optimizer("heavy ball", HEAVY, state=["v"], mu=0.9)
    net = trained(backend, own, 0.05, epochs=3)
    np.testing.assert_array_equal(flat(net), flat(trained(backend, SGD(0.9), 0.05, epochs=3)))
    net.save(tmp_path / "net")
    loaded = gpubp.load(tmp_path / "net", backend)
    how: dict[str, Any] = {"epochs": 4, "batch_size": 10, "learning_rate": 0.05, "resume": True}
    with pytest.raises(ValueError, match="a run with optimizer heavy ball, not sgd"):
        loaded.fit(X, Y, **how, momentum=0.9)
    with pytest.raises(ValueError, match=r"a run with mu 0\.9, not 0\.8: pass the same"):
        loaded.fit(X, Y, **how, optimizer=define_optimizer("heavy ball", HEAVY, ["v"], mu=0.8))
    other = define_optimizer("heavy ball", HEAVY | {"w": "w + 0.5*v"}, ["v"], mu=0.9)
    with pytest.raises(
        ValueError, match=r"a run with the optimizer v = mu\*v - eta\*g; w = w \+ v"
    ):
        loaded.fit(X, Y, **how, optimizer=other)
    loaded.fit(X, Y, **how, optimizer=own, shuffle=False)
    np.testing.assert_array_equal(flat(loaded), flat(trained(backend, own, 0.05, epochs=4)))


def test_numbers_that_follow_the_step(backend: gpubp.Backend) -> None:
    """Names that mean something to C, to Python or to the kernels mean nothing here."""
    own = define_optimizer(
        "adam again",
        {"int_": "0.9*int_ + 0.1*g", "load": "0.999*load + 0.001*g*g",
         "T_": "int_*M/(sqrt(load*N) + 1e-8)", "w": "w - eta*T_"},
        state=["int_", "load"], M=lambda t: 1 / (1 - 0.9**t), N=lambda t: 1 / (1 - 0.999**t),
    )  # fmt: skip
    found, right = (flat(trained(backend, one, 0.01, epochs=5)) for one in (own, Adam()))
    assert normwise(found, right) <= 1e-13


# What is refused, and what is told

REFUSED: dict[str, tuple[Callable[[], object], str]] = {
    "momentum 1": (lambda: SGD(1), "momentum=1.0 must lie in [0, 1)"),
    "nesterov alone": (lambda: SGD(nesterov=True), "nesterov=True needs a momentum"),
    "nesterov a word": (lambda: SGD(0.5, "x"), "nesterov='x' must be True or False"),  # type: ignore[arg-type]
    "beta 1": (lambda: Adam(1.0), "beta_1=1.0 must lie in [0, 1)"),
    "beta NaN": (lambda: Adam(beta_2=math.nan), "beta_2=nan must lie in [0, 1)"),
    "epsilon": (lambda: Adam(epsilon=-1), "epsilon=-1.0 must be a finite number that is not"),
    "decay": (lambda: AdamW(math.inf), "weight_decay=inf must be a finite number that is not"),
    "adamw's beta": (lambda: AdamW(beta_1=2), "beta_1=2.0 must lie in [0, 1)"),
    "epsilon 0": (lambda: Adam(epsilon=0), "epsilon=0.0 must be above 0"),
    "clip 0": (lambda: Update(clip_norm=0), "clip_norm=0.0 must be above 0: no gradient would"),
    "clip NaN": (lambda: Update(clip_norm=math.nan), "clip_norm=nan must be a finite number"),
    "rho": (lambda: RMSprop(1), "rho=1.0 must lie in [0, 1)"),
    "unknown": (lambda: trained("reference", "adm", 0.1), "unknown optimizer 'adm': did you mean "
                "'adam'?"),
    "RMSProp": (lambda: trained("reference", "RMSProp", 0.1), "did you mean 'rmsprop'?"),
    "lbfgs": (lambda: trained("reference", "LBFGS", 0.1), "it is none of gpubp's"),
    "a class": (lambda: trained("reference", Adam, 0.1), "optimizer=Adam is a class: pass Adam()"),
    "a number": (lambda: trained("reference", 3, 0.1), "optimizer=3 must be a name such as 'adam'"),
    "both": (lambda: trained("reference", "adam", 0.1, momentum=0.9),
             "momentum=0.9 and nesterov=False are settings of SGD, but the optimizer is adam("),
    "own built in": (lambda: define_optimizer("adam", {"w": "w - eta*g"}), "is built in"),
    "own no name": (lambda: define_optimizer(" ", {"w": "w - eta*g"}), "must be a string"),
    "own without w": (lambda: define_optimizer("o", {"u": "w - eta*g"}), "no formula assigns to "
                      "'w', the parameter"),
    "own state kept at 0": (lambda: define_optimizer("o", {"w": "w - eta*(g + v)"}, ["v"]),
                            "no formula assigns to the state 'v'"),
    "own state a word": (lambda: define_optimizer("o", HEAVY, "v", mu=0.9), "a list of names"),
    "own state w": (lambda: define_optimizer("o", {"w": "w - eta*g"}, ["w"]), "'w' is given"),
    "own number eta": (lambda: define_optimizer("o", {"w": "w - eta*g"}, eta=1.0), "'eta' is"),
    "own penalty": (lambda: define_optimizer("o", {"w": "w - eta*l2*g"}, l2=0.5), "'l2' is given "
                    "already, as a penalty's coefficient: choose another name"),
    "own clip": (lambda: define_optimizer("o", {"clip": "g", "w": "w - eta*clip"}),
                 "'clip' is a number of the step"),
    "own state a number": (lambda: define_optimizer("o", HEAVY, 3), "state=3 must be a list of"),  # type: ignore[arg-type]
    "own steps a list": (lambda: define_optimizer("o", ["w"]), "must be a dict such as {'w': "),  # type: ignore[arg-type]
    "own formula a number": (lambda: define_optimizer("o", {"w": 3}), "a formula is a string"),  # type: ignore[dict-item]
    "own twice": (lambda: define_optimizer("o", HEAVY, ["v"], v=1.0), "'v' names two things"),
    "own assigns a number": (lambda: define_optimizer("o", {"mu": "mu", "w": "w - eta*g"}, mu=1.0),
                             "'mu' is a number of the step"),
    "own target": (lambda: define_optimizer("o", {"a b": "g", "w": "w - eta*g"}), "must be a name"),
    "own unknown": (lambda: define_optimizer("o", {"w": "w - eta*h"}), "unknown variable 'h'"),
    "own function": (lambda: define_optimizer("o", {"w": "w - eta*sign(g)"}), "unknown function"),
    "own word": (lambda: define_optimizer("o", HEAVY, ["v"], mu="0.9"), "must be a number"),  # type: ignore[arg-type]
    "own infinite": (lambda: define_optimizer("o", HEAVY, ["v"], mu=math.inf), "finite number"),
    "own climbs": (lambda: define_optimizer("o", {"w": "w + eta*g"}), "'o' does not descend: on "
                   "1/2 w^2 it goes from w = -3.0 to -3.31535 in 100 steps with eta = 0.001"),
    "own restless": (lambda: define_optimizer("o", {"w": "w - eta*(g + 0.1)"}), "'o' does not rest "
                     "where w, g and the state are 0: it goes to w = -0.0095"),
    "own explodes": (lambda: define_optimizer("o", {"w": "w - eta/(g - g)"}), "leaves the finite"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_refused_in_one_sentence(case: str) -> None:
    make, words = REFUSED[case]
    with pytest.raises((ValueError, TypeError)) as caught:
        make()
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_descriptions_and_pickles_are_whole(name: str) -> None:
    optimizer = OPTIMIZERS[name]()
    assert from_description(optimizer.description) == optimizer
    assert pickle.loads(pickle.dumps(optimizer)) == optimizer
    assert str(optimizer).startswith(f"{name}(")
    described = Update(optimizer).rule
    assert described == optimizer.rule
    assert Update(optimizer, l2=0.1).rule != described


def test_resuming_with_another_is_refused() -> None:
    net = trained("reference", Adam(beta_1=0.8), 0.01, epochs=1)
    how: dict[str, Any] = {"epochs": 2, "batch_size": 10, "learning_rate": 0.01, "resume": True}
    with pytest.raises(ValueError, match="continues a run with optimizer adam, not sgd"):
        net.fit(X, Y, **how)
    with pytest.raises(ValueError, match=r"continues a run with beta_1 0\.8, not 0\.9"):
        net.fit(X, Y, **how, optimizer="adam")
    net.fit(X, Y, **how, optimizer=Adam(beta_1=0.8))
    assert len(net.history) == 2


def test_a_checkpoint_from_before_optimizers(tmp_path: Path) -> None:
    """Its momentum and velocity are SGD's; that Nesterov's was meant, the file does not say."""
    from gpubp.tensorfile import read_tensors, write_tensors

    for nesterov_too in (False, True):
        net = gpubp.Network([13, 17, 4], rng=1)
        how: dict[str, Any] = {"batch_size": 10, "learning_rate": 0.1, "momentum": 0.5}
        how["nesterov"] = nesterov_too
        net.fit(X, Y, epochs=2, **how)
        net.save(tmp_path / "net")
        tensors, header = read_tensors(tmp_path / "net")
        header["training"]["momentum"] = header["training"].pop("optimizer")["settings"]["momentum"]
        tensors["velocity"] = tensors.pop("state")[0]
        write_tensors(tmp_path / "old", tensors, header)
        old = gpubp.load(tmp_path / "old")
        for one in (old, net):
            one.fit(X, Y, epochs=4, **how, resume=True)
        np.testing.assert_array_equal(flat(old), flat(net))
