"""What a checkpoint may hold: all that is written is read, and nothing else gets far."""

from __future__ import annotations

import contextlib
import copy
import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import gpubp
from gpubp.optimizer import from_description
from gpubp.tensorfile import read_tensors, write_tensors

RNG = np.random.default_rng(2)
X, Y = RNG.random((31, 4)), RNG.integers(0, 3, 31)
GENERATORS = ("PCG64", "PCG64DXSM", "MT19937", "Philox", "SFC64")
OWN = gpubp.define_activation("own", "z/(1 + abs(z))"), gpubp.define_cost("negative", "-a*y")


class StopAt(gpubp.Callback):
    def __init__(self, epoch: int, step: int) -> None:
        self.at = epoch, step

    def on_interval(self, training: Any) -> None:
        if (training.epoch, training.step) >= self.at:
            raise KeyboardInterrupt


def generator(name: str, seed: int = 1) -> np.random.Generator:
    return np.random.Generator(getattr(np.random, name)(seed))


def stopped(name: str = "PCG64", **more: Any) -> gpubp.Network:
    """A network inside its second epoch, with all that a checkpoint may hold but ``last``."""
    net = gpubp.Network(
        [4, 6, 3], rng=generator(name), activation=[OWN[0], "sigmoid"], cost=OWN[1],
        backend="reference",
    )  # fmt: skip
    net.classes, net.inputs, net.targets = ("a", "b", "c"), ("p", "q", "r", "s"), ("kind",)
    callbacks = [StopAt(1, 1), gpubp.EarlyStopping(3)]
    given = {"epochs": 3, "momentum": 0.5, "validation": (X, Y), "callbacks": callbacks} | more
    with pytest.raises(KeyboardInterrupt):
        net.fit(X, Y, batch_size=4, learning_rate=0.3, **given)
    return net


# What is written is read


def assert_same(one: gpubp.Network, two: gpubp.Network) -> None:
    np.testing.assert_array_equal(one.parameters.flat, two.parameters.flat)
    assert (one.sizes, one.dtype, one.classes) == (two.sizes, two.dtype, two.classes)
    assert (one.inputs, one.targets) == (two.inputs, two.targets)
    assert (one.activations, one.cost) == (two.activations, two.cost)
    assert str(one.rng.bit_generator.state) == str(two.rng.bit_generator.state)
    assert (one.training is None) == (two.training is None)
    if one.training is None or two.training is None:
        return
    np.testing.assert_equal(one.parameters.state, two.parameters.state)
    mine, theirs = vars(one.training).copy(), vars(two.training).copy()
    for state in (mine, theirs):
        del state["network"]
        state["history"] = str(state["history"].to_dicts())
    np.testing.assert_equal(mine, theirs)


@settings(
    max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    name=st.sampled_from(GENERATORS),
    buffered=st.booleans(),
    dtype=st.sampled_from(["float32", "float64"]),
    cost=st.sampled_from(["quadratic", "cross_entropy", OWN[1]]),
    momentum=st.sampled_from([0.0, 0.5]),
    patience=st.sampled_from([None, 1, 5]),
    epochs=st.integers(0, 3),
    stop=st.none() | st.tuples(st.integers(0, 2), st.integers(0, 8)),
    rate=st.sampled_from([0.3, 1e300]),
    classes=st.sampled_from([None, ("a", "b", "c"), ("grün", "ja", "né")]),
)
def test_every_state_that_training_leaves_comes_back(
    tmp_path: Path, name: str, buffered: bool, dtype: str, cost: Any, momentum: float,
    patience: int | None, epochs: int, stop: Any, rate: float, classes: Any,
) -> None:  # fmt: skip
    net = gpubp.Network(
        [4, 5, 3], rng=generator(name), cost=cost, dtype=dtype, backend="reference",
        activation=[OWN[0], "sigmoid"],
    )  # fmt: skip
    net.classes = classes
    if buffered:
        net.rng.integers(0, 10, 3, dtype=np.int32)  # leaves half a word in some of them
    callbacks: list[Any] = [] if stop is None else [StopAt(*stop)]
    if patience is not None:
        callbacks.append(gpubp.EarlyStopping(patience, "cost"))
    run = {"epochs": epochs, "batch_size": 4, "learning_rate": rate, "momentum": momentum}
    path = tmp_path / "net"
    with contextlib.suppress(KeyboardInterrupt, gpubp.DivergenceError):
        net.fit(X, Y, **run, callbacks=callbacks, checkpoint=path)
    loaded = gpubp.load(path, "reference")
    assert_same(loaded, net)
    more = run | {"epochs": 3, "learning_rate": 0.1, "resume": True}
    for one in (loaded, net):
        one.fit(X, Y, **more)
    if loaded.training is not None:
        loaded.training.seconds = 0.0 if net.training is None else net.training.seconds
    np.testing.assert_array_equal(loaded.parameters.flat, net.parameters.flat)
    assert loaded.rng.random() == net.rng.random()


@pytest.mark.parametrize("total", [float("inf"), float("-inf"), float("nan"), -24.9])
def test_any_sum_of_costs_comes_back(total: float, tmp_path: Path) -> None:
    net = stopped()
    assert net.training is not None
    net.training.cost_sum = total
    net.save(tmp_path / "net")
    assert_same(gpubp.load(tmp_path / "net", "reference"), net)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_weights_that_are_no_numbers_are_neither_saved_nor_loaded(
    value: float, tmp_path: Path
) -> None:
    net, path = stopped(), tmp_path / "net"
    net.save(path)
    tensors, header = read_tensors(path)
    before = path.read_bytes()
    net.weights[0][2, 3] = value
    told = rf"weights\.0 holds {value} at \[2, 3\]"
    with pytest.raises(ValueError, match=f"this network cannot be saved as it is: {told}"):
        net.save(path)
    assert path.read_bytes() == before
    assert not np.isfinite(net.weights[0][2, 3])  # nor changed in memory
    tensors["weights.0"][2, 3] = value
    write_tensors(path, tensors, header)
    with pytest.raises(gpubp.DataFormatError, match=told):
        gpubp.load(path)


def test_what_could_not_be_loaded_is_not_saved(tmp_path: Path) -> None:
    own = gpubp.Activation(["a list"], OWN[0].sigma, OWN[0].sigma_prime)  # type: ignore[arg-type]
    net = gpubp.Network([4, 3], activation=own, rng=0)
    with pytest.raises(ValueError, match=r"the name \['a list'\] of a formula"):
        net.save(tmp_path / "net")

    class PCG64(np.random.PCG64):
        pass

    net = gpubp.Network([4, 3], rng=np.random.Generator(PCG64(1)))
    with pytest.raises(TypeError, match="a network whose rng is a PCG64 cannot be saved"):
        net.save(tmp_path / "net")


# What is read was written

# generator, where, what stands there, what is said of it
HOSTILE: list[tuple[str, str, Any, str]] = [
    ("MT19937", "rng.state.pos", 2**31 - 1, "2147483647, not an integer from 0 to 624"),
    ("MT19937", "rng.state.pos", 625, "not an integer from 0 to 624"),
    ("MT19937", "rng.state.pos", -1, "not an integer from 0 to 624"),
    ("MT19937", "rng.state.pos", True, "not an integer from 0 to 624"),
    ("MT19937", "rng.state.key", {"array": [0] * 623, "dtype": "uint32"}, "624 numbers of uint32"),
    ("MT19937", "rng.state.key.array.5", 2**32, "not an integer from 0 to 4294967295"),
    ("MT19937", "rng.state.key.array.5", 0.5, "not an integer from 0 to 4294967295"),
    ("MT19937", "rng.state.key.dtype", "S2000000000", "624 numbers of uint32"),
    ("MT19937", "training.order_state.state.pos", 2**31 - 1, "training.order_state.state.pos"),
    ("Philox", "rng.buffer_pos", -100_000_000, "not an integer from 0 to 4"),
    ("Philox", "rng.buffer_pos", 5, "not an integer from 0 to 4"),
    ("Philox", "rng.buffer.array", [0] * 3, "4 numbers of uint64"),
    ("Philox", "rng.state.counter.dtype", "object", "4 numbers of uint64"),
    ("Philox", "rng.state.key.dtype", "float64", "2 numbers of uint64"),
    ("PCG64", "rng.state.inc", 4, "not odd"),
    ("PCG64", "rng.state.state", 2**128, "not an integer from 0"),
    ("PCG64", "rng.has_uint32", 2, "not an integer from 0 to 1"),
    ("PCG64", "rng.uinteger", 2**32, "not an integer from 0 to 4294967295"),
    ("PCG64", "rng.more", 1, "rng with an unknown 'more'"),
    ("PCG64", "rng.bit_generator", ["PCG64"], "not one of PCG64, "),
    ("PCG64DXSM", "training.order_state.bit_generator", "PCG64", "an order drawn by PCG64"),
    ("SFC64", "rng.state.state.array", [1, 2, 3, -4], "rng.state.state[3] = -4"),
    ("PCG64", "activations.0.name", ["f"], "the name ['f'] of a formula"),
    ("PCG64", "activations.0", ["sigmoid"], "not an object"),
    ("PCG64", "activations.1", "sig\x1b[31mmoid", r"unknown activation 'sig\x1b[31mmoid'"),
    ("PCG64", "cost.name", "n" * 2001, "at most 2000 characters"),
    ("PCG64", "cost.unit_interval", 1, "not true or false"),
    ("PCG64", "sizes.0", "4", "not an integer from 1"),
    ("PCG64", "training.optimizer.settings.momentum", 1, "momentum=1.0 must lie in [0, 1)"),
    ("PCG64", "training.optimizer.settings.momentum", 10**400, "not a finite number"),
    ("PCG64", "training.optimizer.settings.momentum", "0.5", "not a finite number"),
    ("PCG64", "training.optimizer.settings.momentum", 0, "a tensor 'state' that nothing"),
    ("PCG64", "training.optimizer.settings.nesterov", 1, "nesterov=1 must be True or False"),
    ("PCG64", "training.optimizer.settings.mu", 0.5, "unexpected keyword argument 'mu'"),
    ("PCG64", "training.optimizer.settings", {"n" * i: 1 for i in range(65)}, "at most 64 numbers"),
    ("PCG64", "training.optimizer.settings", [0.5], "not an object of at most 64"),
    ("PCG64", "training.optimizer", {"name": "adam", "settings": {}}, "state of shape (1, "),
    (
        "PCG64",
        "training.optimizer",
        {"name": "sgd", "settings": {}},
        "a tensor 'state' that nothing",
    ),
    ("PCG64", "training.optimizer.name", "sgdm", "not one of sgd, adam, "),
    ("PCG64", "training.optimizer.name", "s\x1b[31m" * 9000, "not at most 20000 characters"),
    ("PCG64", "training.optimizer.name", 3, "not at most 20000 characters"),
    ("PCG64", "training.optimizer.formulas", "w = w", "'sgd' with formulas of its own"),
    ("PCG64", "training.optimizer.more", 1, "training.optimizer with an unknown 'more'"),
    ("PCG64", "training.seconds", -1.0, "not negative"),
    ("PCG64", "training.seconds", 10**400, "not negative"),
    ("PCG64", "inputs", ["p", "q"], "2 names of inputs for 4 inputs"),
    ("PCG64", "classes", ["a", "a ", "b"], "differ in spaces alone"),
    ("PCG64", "training.cost_sum", 10**400, "not a number"),
    ("PCG64", "training.cost_sum", "much", "not a number"),
    ("PCG64", "training.epoch", 2, "history of float64 and shape (1, 12) after 2 epochs"),
    ("PCG64", "training.epoch", 10**30, "not an integer from 0"),
    ("PCG64", "training.best_after", 2, "not an integer from 0 to 1"),
    ("PCG64", "training.batch_size", 32, "not an integer from 1 to 31"),
    ("PCG64", "training.step", 9, "not an integer from 0 to 8"),
    ("PCG64", "training.stopped", 0, "not true or false"),
    ("PCG64", "training.order_state", None, "whose order was never drawn"),
    ("PCG64", "training.more", 1, "training with an unknown 'more'"),
    ("PCG64", "classes", ["a", "a", "b"], "two classes have the same name"),
    ("PCG64", "sizes", [1] * 300_000, "7 tensors for a network of 300000 layers"),
    ("PCG64", "format", "\x1b]0;title\x07", r"found format '\x1b]0;title\x07'"),
]


def put(header: Any, where: tuple[Any, ...], value: Any) -> Any:
    """A copy of the header with ``value`` at that place."""
    if not where:
        return value
    place = changed = copy.deepcopy(header)
    for key in where[:-1]:
        place = place[key]
    place[where[-1]] = value
    return changed


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """(tensors, header) of a stopped run for each bit generator."""
    path = tmp_path_factory.mktemp("saved") / "net"
    found = {}
    for name in GENERATORS:
        stopped(name).save(path)
        found[name] = read_tensors(path)
    return found


@pytest.mark.parametrize(("name", "where", "value", "told"), HOSTILE)
def test_hostile_values_are_refused_before_anything_is_made_of_them(
    name: str, where: str, value: Any, told: str, saved: dict[str, Any], tmp_path: Path
) -> None:
    tensors, header = saved[name]
    keys = tuple(int(key) if key.isdigit() else key for key in where.split("."))
    write_tensors(tmp_path / "net", tensors, put(header, keys, value))
    began = time.process_time()
    with pytest.raises(gpubp.DataFormatError):
        gpubp.load(tmp_path / "net", "reference")
    assert time.process_time() - began <= 1.0
    tracemalloc.start()
    try:
        with pytest.raises(gpubp.DataFormatError) as caught:
            gpubp.load(tmp_path / "net", "reference")
        assert tracemalloc.get_traced_memory()[1] <= 64 * 2**20
    finally:
        tracemalloc.stop()
    assert told in str(caught.value)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) <= len(str(tmp_path)) + 300


@pytest.mark.parametrize(
    ("column", "value", "told"),
    [
        (0, 7.0, "number of the epoch"),
        (1 + 6, 0.0, "marks of what is there"),  # an epoch without a cost
        (4 + 6, 0.5, "marks of what is there"),
        (2, -1.0, "seconds"),
        (2, np.nan, "seconds"),
        (3, np.inf, "learning rate"),
        (5, 1.5, "accuracy"),
    ],
)
def test_a_history_that_no_run_has_is_refused(
    column: int, value: float, told: str, saved: dict[str, Any], tmp_path: Path
) -> None:
    tensors, header = saved["PCG64"]
    history = tensors["history"].copy()
    history[0, column] = value
    write_tensors(tmp_path / "net", tensors | {"history": history}, header)
    with pytest.raises(gpubp.DataFormatError, match=f"a wrong {told} in row 0 of the history"):
        gpubp.load(tmp_path / "net", "reference")


ODD: list[Any] = [
    None, True, -1, 0, 1, 3, 625, 2**63, 10**400, 0.5, "", "sigmoid", "S2000000000", "inf",
    [], {}, {"array": [0] * 4, "dtype": "uint64"}, [4, 6, 3],
]  # fmt: skip


def places(value: Any, where: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place in the header; of a long list the ends."""
    yield where
    if isinstance(value, dict):
        for key in value:
            yield from places(value[key], (*where, key))
    elif isinstance(value, list):
        for i in sorted({*range(min(2, len(value))), *range(max(0, len(value) - 1), len(value))}):
            yield from places(value[i], (*where, i))


@pytest.mark.parametrize("name", GENERATORS)
def test_whatever_stands_in_a_header_it_is_refused_or_works(
    name: str, saved: dict[str, Any], tmp_path: Path
) -> None:
    """Every fifth of all pairs of a place and a value; what loads predicts, trains and saves."""
    tensors, header = saved[name]
    pairs = [(where, value) for where in places(header) for value in ODD if where]
    refused = worked = 0
    for where, value in pairs[GENERATORS.index(name) :: 5]:
        write_tensors(tmp_path / "net", tensors, put(header, where, value))
        try:
            net = gpubp.load(tmp_path / "net", "reference")
        except gpubp.DataFormatError:
            refused += 1
            continue
        worked += 1
        net.predict(X)
        t = net.training
        run = {"epochs": 1, "batch_size": 4, "learning_rate": 0.1}
        if t is not None and t.examples == len(X):
            run = {"epochs": t.epoch + 1, "batch_size": t.batch_size, "learning_rate": 0.1,
                   "optimizer": from_description(t.optimizer), "resume": True}  # fmt: skip
        net.fit(X, Y, **run)
        net.save(tmp_path / "again")
        gpubp.load(tmp_path / "again", "reference")
    assert refused > 100
    assert worked > 10


@pytest.mark.parametrize("figure", ["cost_sum", "seconds"])
@pytest.mark.parametrize("value", [1e9, -1.0, "nan", "inf"])
def test_an_epoch_that_has_not_begun_has_no_costs(figure: str, value: Any, tmp_path: Path) -> None:
    """They would be added to those of the epoch."""
    net = gpubp.Network([4, 3], rng=1, backend="reference")
    net.fit(X, Y, epochs=1, batch_size=4, learning_rate=0.1)
    net.save(tmp_path / "net")
    tensors, header = read_tensors(tmp_path / "net")
    header["training"][figure] = value
    write_tensors(tmp_path / "net", tensors, header)
    with pytest.raises(gpubp.DataFormatError, match=r"has not begun|training\.seconds = "):
        gpubp.load(tmp_path / "net", "reference")
