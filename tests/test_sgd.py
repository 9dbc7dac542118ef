"""The loop: history, schedules, callbacks, stopping, divergence, interrupts, exact resuming."""

from __future__ import annotations

import math
import os
import pickle
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from oracle import flat, host

import gpubp
import gpubp.sgd
from gpubp.schedule import (
    SCHEDULES,
    Constant,
    Cosine,
    Exponential,
    InverseScaling,
    OneCycle,
    ReduceOnPlateau,
    Step,
    make_schedule,
)


def blobs(n: int = 203, n_in: int = 5, classes: int = 3) -> tuple[Any, Any]:
    """Points around one centre a class: learnable, and 203 leaves a ragged last mini-batch."""
    rng = np.random.default_rng(7)
    y = rng.integers(0, classes, n)
    return rng.standard_normal((classes, n_in))[y] * 2 + 0.5 * rng.standard_normal((n, n_in)), y


def network(backend: str | gpubp.Backend = "cpu", **kwargs: Any) -> gpubp.Network:
    return gpubp.Network([5, 8, 3], backend=backend, rng=3, **kwargs)


FIT: dict[str, Any] = {"epochs": 4, "batch_size": 10, "learning_rate": 1.0}


def test_learns_and_keeps_history(backend: gpubp.Backend) -> None:
    x, y = blobs()
    net = network(backend)
    history = net.fit(x, y, **FIT | {"epochs": 30}, validation=(x, y))
    assert [row.epoch for row in history] == list(range(30))
    assert history.cost[-1] <= history.cost[0] / 4
    assert history.validation_accuracy[-1] >= 0.95
    assert history[-1].validation_cost == net.evaluate(x, y).cost
    assert history.learning_rate == [1.0] * 30
    assert all(seconds > 0 for seconds in history.seconds)
    assert len(str(history).splitlines()) == 30
    assert net.history is history


def test_history_cost_is_the_objective_before_each_update(backend: gpubp.Backend) -> None:
    x, y = blobs(20)
    net = network(backend, dtype="float64")
    w = np.concatenate([np.ravel(w) for w in host(net, net.weights)])
    expected = net.evaluate(x, y).cost + 0.5 * 0.1 * np.sum(w * w) + 0.01 * np.sum(np.abs(w))
    history = net.fit(
        x, y, epochs=1, batch_size=20, learning_rate=1.0, l2=0.1, l1=0.01, shuffle=False
    )
    assert abs(history[0].cost - expected) <= 1e-12


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_how_an_epoch_is_cut_does_not_change_the_weights(
    backend: gpubp.Backend, momentum: float
) -> None:
    x, y = blobs()
    whole, cut = network(backend), network(backend)
    how = FIT | {"learning_rate": OneCycle(0.5, 4, per_epoch=7), "momentum": momentum}
    whole.fit(x, y, **how)
    with pieces_of(3):
        cut.fit(x, y, **how)
    np.testing.assert_array_equal(flat(whole), flat(cut))


def test_zero_epochs_changes_nothing() -> None:
    x, y = blobs()
    net = network()
    before = net.parameters.flat.copy()
    assert len(net.fit(x, y, **FIT | {"epochs": 0})) == 0
    np.testing.assert_array_equal(net.parameters.flat, before)


def test_shuffle_callable_and_off() -> None:
    x, y = blobs()
    one, two = network(), network()
    one.fit(x, y, **FIT, shuffle=False)
    two.fit(x, y, **FIT, shuffle=lambda rng, n: np.arange(n))
    np.testing.assert_array_equal(flat(one), flat(two))
    for wrong in (
        lambda rng, n: np.arange(n - 1),
        lambda rng, n: np.arange(n) + 0.5,
        lambda rng, n: np.arange(n) + 1,
        lambda rng, n: np.arange(n) - 1,
    ):
        with pytest.raises(ValueError, match="shuffle returned"):
            one.fit(x, y, **FIT, shuffle=wrong)


# Schedules


def rates(schedule: Any, epochs: int) -> list[float]:
    history = gpubp.History()
    return [schedule.rate(t, history) for t in range(epochs)]


def test_schedules_follow_their_formulas() -> None:
    assert rates(Constant(0.3), 3) == [0.3] * 3
    assert rates(Step(1.0, every=2, factor=0.5), 5) == [1, 1, 0.5, 0.5, 0.25]
    assert rates(Exponential(1.0, 0.5), 4) == [1, 0.5, 0.25, 0.125]
    np.testing.assert_allclose(rates(Cosine(1.0, 4), 6), [1, 0.853553, 0.5, 0.146447, 0, 0], 1e-5)
    np.testing.assert_allclose(rates(InverseScaling(1.0), 3), [1, 2**-0.5, 3**-0.5])
    cycle = OneCycle(1.0, 10)
    assert abs(cycle.rate(0, gpubp.History()) - 1 / 25) <= 1e-15
    assert abs(cycle.rate(3, gpubp.History()) - 1.0) <= 1e-15
    assert abs(cycle.rate(10, gpubp.History()) - 1e-4) <= 1e-15


def test_reduce_on_plateau_counts_from_the_history() -> None:
    schedule = ReduceOnPlateau(1.0, factor=0.1, patience=2, monitor="cost")
    history, seen = gpubp.History(), []
    for epoch, cost in enumerate([5, 4, 4, 4, 3, 3, 3, 3, 3]):
        seen.append(schedule.rate(epoch, history))
        history.append(gpubp.Epoch(epoch, cost, 0.0, seen[-1]))
    np.testing.assert_allclose(seen, [1, 1, 1, 1, 0.1, 0.1, 0.1, 0.01, 0.01])


@pytest.mark.parametrize("name", SCHEDULES)
def test_training_with_each_schedule(name: str) -> None:
    x, y = blobs()
    history = network().fit(
        x, y, epochs=5, batch_size=10, validation=(x, y),
        learning_rate=make_schedule(name, 1.0, 5),
    )  # fmt: skip
    assert history.cost[-1] < history.cost[0]


def test_learning_rate_callable_and_bad_values() -> None:
    x, y = blobs()
    history = network().fit(x, y, **FIT | {"learning_rate": lambda epoch: 1 / (1 + epoch)})
    np.testing.assert_allclose(history.learning_rate, [1, 1 / 2, 1 / 3, 1 / 4])
    for wrong in (0, -1, math.nan, math.inf, "fast", None, lambda epoch: -1.0):
        with pytest.raises(ValueError, match=r"rate.*must be a finite number"):
            network().fit(x, y, **FIT | {"learning_rate": wrong})
    with pytest.raises(ValueError, match="did you mean 'cosine'"):
        make_schedule("cosin", 1.0, 5)


# Callbacks and early stopping


class Recorder(gpubp.Callback):
    def __init__(self) -> None:
        self.steps: list[tuple[int, int]] = []
        self.epochs: list[int] = []

    def on_interval(self, training: Any) -> None:
        self.steps.append((training.epoch, training.step))
        assert math.isfinite(training.cost)

    def on_epoch(self, training: Any) -> None:
        self.epochs.append(len(training.history))


def test_callbacks_see_step_boundaries_and_can_stop() -> None:
    x, y = blobs()
    recorder, seen = Recorder(), []

    def stop_after_two(training: Any) -> None:
        seen.append(training.history[-1].epoch)
        if len(training.history) == 2:
            training.stop()

    history = network().fit(x, y, **FIT, callbacks=[recorder, stop_after_two])
    assert len(history) == 2
    assert seen == [0, 1]
    assert recorder.epochs == [1, 2]
    assert recorder.steps[-1] == (1, 21)
    assert recorder.steps == sorted(recorder.steps)
    with pytest.raises(TypeError, match="a callback is"):
        network().fit(x, y, **FIT, callbacks=[3])


def test_early_stopping_restores_the_best_weights() -> None:
    x, y = blobs()
    net, kept = network(), {}

    def keep(training: Any) -> None:
        kept[training.history[-1].epoch] = training.network.parameters.flat.copy()

    other = np.where(np.arange(len(y)) < 60, (y + 1) % 3, y)  # surer is soon worse on these
    history = net.fit(
        x, y, epochs=60, batch_size=10, learning_rate=1.0, validation=(x, other),
        callbacks=[keep, gpubp.EarlyStopping(patience=3)],
    )  # fmt: skip
    best = int(np.argmin(history.validation_cost))
    assert len(history) == best + 4 < 60
    np.testing.assert_array_equal(net.parameters.flat, kept[best])
    assert net.evaluate(x, other).cost == min(history.validation_cost)


def test_early_stopping_needs_its_column() -> None:
    x, y = blobs()
    with pytest.raises(ValueError, match="pass validation"):
        network().fit(x, y, **FIT, callbacks=[gpubp.EarlyStopping()])
    with pytest.raises(ValueError, match="unknown monitor"):
        gpubp.EarlyStopping(monitor="val_loss")
    with pytest.raises(ValueError, match="patience=0"):
        gpubp.EarlyStopping(patience=0)


# Divergence


@pytest.mark.parametrize(
    ("how", "cure"),
    [
        ({"l2": 1e30}, "try an l2 below 1e+30, as a step multiplies weights by 1 - eta l2"),
        ({"l1": 1e38}, "try an l1 below 1e+38, as a step moves weights by eta l1"),
        ({"learning_rate": 1e30, "l2": 1e-30}, "try a learning rate below 1e+30"),
    ],
)
def test_what_made_a_run_diverge(how: dict[str, Any], cure: str, backend: gpubp.Backend) -> None:
    x, y = blobs()
    net = network(backend, activation="identity")
    with pytest.raises(gpubp.DivergenceError) as caught:
        net.fit(x, y, **FIT | {"learning_rate": 0.1} | how)
    assert cure in str(caught.value)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


@pytest.mark.filterwarnings("error::RuntimeWarning")
@pytest.mark.parametrize("name", ["reference", "cpu"])
@pytest.mark.parametrize("how", [{}, {"optimizer": "adam"}, {"clip_norm": 1.0}, {"l2": 0.1}])
@pytest.mark.parametrize("activation", ["relu", "identity", "gelu"])
def test_inputs_whose_squares_overflow(name: str, how: dict[str, Any], activation: str) -> None:
    """One sentence, and no warning of NumPy's beside it; nor where they are only evaluated."""
    x, y = blobs()
    net = network(name, activation=activation, dtype="float64")
    with pytest.raises(gpubp.DivergenceError, match="training diverged in epoch 0, step 0: "):
        net.fit(x * 1e300, y, validation=(x * 1e300, y), **FIT | how)
    assert np.isfinite(flat(net)).all()
    assert not math.isfinite(net.evaluate(x * 1e300, y).cost)
    with pytest.raises(ValueError, match="x as float32 holds NaN or infinity"):
        network(name, activation=activation).fit(x * 1e300, y, **FIT | how)


def test_divergence_is_named_and_the_last_finite_weights_kept(backend: gpubp.Backend) -> None:
    x, y = blobs()
    net = gpubp.Network(
        [5, 8, 3], activation=["relu", "identity"], backend=backend, rng=3, cost="quadratic"
    )
    with pytest.raises(gpubp.DivergenceError, match="try a learning rate below") as caught:
        net.fit(x, y, epochs=50, batch_size=10, learning_rate=50.0)
    error = caught.value
    assert error.epoch == 0
    assert 0 < error.step < 21
    assert error.layer in (2, 3, None)
    assert np.isfinite(flat(net)).all()
    assert str(pickle.loads(pickle.dumps(error))) == str(error)

    # The step it names is the right one: one step fewer still trains, from the same start.
    again = gpubp.Network(
        [5, 8, 3], activation=["relu", "identity"], backend=backend, rng=3, cost="quadratic"
    )
    order = again.rng.permutation(len(x))[: 10 * error.step]
    again.fit(x[order], y[order], epochs=1, batch_size=10, learning_rate=50.0, shuffle=False)
    np.testing.assert_array_equal(flat(again), flat(net))


# Ctrl-C and resuming


class Interrupt(gpubp.Callback):
    """Sends this process the signal that Ctrl-C sends, once, at some step of some epoch."""

    def __init__(self, epoch: int, step: int) -> None:
        self.at: tuple[int, int] | None = (epoch, step)

    def on_interval(self, training: Any) -> None:
        if self.at is not None and (training.epoch, training.step) >= self.at:
            self.at = None
            os.kill(os.getpid(), signal.SIGINT)


@contextmanager
def pieces_of(most: int) -> Iterator[None]:
    """The loop hands over so many mini-batches at once, at most."""
    count = gpubp.sgd.Run._count
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gpubp.sgd.Run, "_count", lambda run: min(most, count(run)))
        yield


def plain_order(rng: np.random.Generator, n: int) -> Any:
    return rng.permutation(n)


@pytest.mark.parametrize(
    "rule",
    [
        {},
        {"momentum": 0.9},
        {"momentum": 0.9, "nesterov": True, "l2": 1e-3, "l1": 1e-4},
        {"optimizer": "nadam", "l2": 1e-3},
    ],
    ids=["plain", "momentum", "nesterov-l2-l1", "nadam-l2"],
)
@pytest.mark.parametrize("epoch", [0, 2])
def test_resume_after_ctrl_c_is_bitwise_the_unbroken_run(
    backend: gpubp.Backend, rule: dict[str, Any], epoch: int, tmp_path: Path
) -> None:
    x, y = blobs()
    settings = FIT | rule | {"learning_rate": 0.1}
    unbroken = network(backend)
    expected = unbroken.fit(x, y, **settings, validation=(x, y))

    path = tmp_path / "run.safetensors"
    net = network(backend)
    with pieces_of(3), pytest.raises(KeyboardInterrupt):
        net.fit(
            x, y, **settings, validation=(x, y), checkpoint=path, callbacks=[Interrupt(epoch, 6)]
        )
    assert net.training is not None
    assert (net.training.epoch, 0 < net.training.step < 21) == (epoch, True)

    loaded = gpubp.load(path, backend)
    np.testing.assert_array_equal(flat(loaded), flat(net))
    for interrupted in (loaded, net):  # from the file, and in the same process
        history = interrupted.fit(x, y, **settings, validation=(x, y), resume=True)
        np.testing.assert_array_equal(flat(interrupted), flat(unbroken))
        assert interrupted.rng.random() == np.random.Generator.random(_copy_of(unbroken.rng))
        assert history.validation_cost == expected.validation_cost
        np.testing.assert_allclose(history.cost, expected.cost, rtol=1e-12)
        assert history.learning_rate == expected.learning_rate


def _copy_of(rng: np.random.Generator) -> np.random.Generator:
    return pickle.loads(pickle.dumps(rng))


def test_saving_at_any_step_resumes_bitwise(tmp_path: Path) -> None:
    x, y = blobs()
    settings = FIT | {"optimizer": "adam", "learning_rate": 0.01}
    unbroken = network()
    unbroken.fit(x, y, **settings)

    class Save(gpubp.Callback):
        def on_interval(self, training: Any) -> None:
            training.network.save(tmp_path / f"{training.epoch}-{training.step}")

    with pieces_of(3):
        network().fit(x, y, **settings, callbacks=[Save()])
    files = list(tmp_path.iterdir())
    assert len(files) >= 28
    for path in files:
        net = gpubp.load(path)
        history = net.fit(x, y, **settings, resume=True)
        assert history.learning_rate == [0.01] * 4
        np.testing.assert_array_equal(flat(net), flat(unbroken))


def test_early_stopping_and_plateau_resume_as_unbroken(tmp_path: Path) -> None:
    x, y = blobs()

    def settings() -> dict[str, Any]:
        return {
            "epochs": 40, "batch_size": 10, "validation": (x, y),
            "learning_rate": ReduceOnPlateau(20.0, patience=2),
            "callbacks": [gpubp.EarlyStopping(patience=6)],
        }  # fmt: skip

    unbroken = network()
    expected = unbroken.fit(x, y, **settings())
    net, path = network(), tmp_path / "run"
    broken = settings()
    broken["callbacks"].append(Interrupt(5, 0))
    with pytest.raises(KeyboardInterrupt):
        net.fit(x, y, **broken, checkpoint=path)
    resumed = gpubp.load(path)
    history = resumed.fit(x, y, **settings(), resume=True)
    assert len(history) == len(expected)
    np.testing.assert_array_equal(flat(resumed), flat(unbroken))


def test_resuming_after_early_stopping(tmp_path: Path) -> None:
    """A stopped run stays stopped; with more patience, or without it, it goes on from its end."""
    x, y = blobs()
    other = np.where(np.arange(len(y)) < 60, (y + 1) % 3, y)

    def fit(net: gpubp.Network, patience: int | None, epochs: int, **more: Any) -> gpubp.History:
        callbacks = [] if patience is None else [gpubp.EarlyStopping(patience)]
        return net.fit(
            x, y, epochs=epochs, batch_size=10, learning_rate=1.0, momentum=0.5,
            validation=(x, other), callbacks=callbacks, **more,
        )  # fmt: skip

    net, path = network(), tmp_path / "run"
    stopped = fit(net, 3, 60, checkpoint=path)
    assert 4 <= len(stopped) < 50
    best = net.parameters.flat.copy()
    again = gpubp.load(path)
    assert len(fit(again, 3, 60, resume=True)) == len(stopped)
    np.testing.assert_array_equal(again.parameters.flat, best)

    unbroken, patient = network(), gpubp.load(path)
    n = len(stopped) + 2
    expected, went_on = fit(unbroken, 30, n), fit(patient, 30, n, resume=True)
    assert went_on.validation_cost == expected.validation_cost
    np.testing.assert_array_equal(flat(patient), flat(unbroken))

    plain, without = network(), gpubp.load(path)
    fit(plain, None, n)
    fit(without, None, n, resume=True)
    np.testing.assert_array_equal(flat(without), flat(plain))


def test_an_error_inside_a_piece_leaves_the_step_boundary(
    backend: gpubp.Backend, tmp_path: Path
) -> None:
    """A second Ctrl-C may strike inside the stepper: its half-done piece is taken back."""
    x, y = blobs()
    net, unbroken, path = network(backend), network(backend), tmp_path / "run"
    unbroken.fit(x, y, **FIT, momentum=0.9)
    kernels = net.backend.kernels

    class Broken(kernels.Stepper):  # type: ignore[name-defined,misc]
        calls = 0

        def run(self, order: Any, numbers: Any) -> Any:
            costs = super().run(order, numbers)
            Broken.calls += 1
            if Broken.calls == 4:
                raise KeyboardInterrupt
            return costs

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernels, "Stepper", Broken)
        with pytest.raises(KeyboardInterrupt):
            net.fit(x, y, **FIT, momentum=0.9, checkpoint=path)
    resumed = gpubp.load(path, backend)
    resumed.fit(x, y, **FIT, momentum=0.9, resume=True)
    np.testing.assert_array_equal(flat(resumed), flat(unbroken))


def test_a_schedule_may_reach_zero_and_a_bad_one_loses_nothing() -> None:
    x, y = blobs()
    net = network()
    history = net.fit(x, y, epochs=5, batch_size=10, learning_rate=Cosine(0.1, 3))
    assert history.learning_rate[3:] == [0.0, 0.0]
    training, before = net.training, net.parameters.flat.copy()
    with pytest.raises(ValueError, match="rate"):
        net.fit(x, y, epochs=5, batch_size=10, learning_rate=lambda epoch: -1.0)
    assert net.training is training
    np.testing.assert_array_equal(net.parameters.flat, before)


def test_resume_refuses_another_run(tmp_path: Path) -> None:
    x, y = blobs()
    net = network()
    with pytest.raises(ValueError, match="carries no training"):
        net.fit(x, y, **FIT, resume=True)
    net.fit(x, y, **FIT)
    for change in ({"batch_size": 7}, {"momentum": 0.5}):
        with pytest.raises(ValueError, match="resume=True continues a run with"):
            net.fit(x, y, **FIT | change, resume=True)
    with pytest.raises(ValueError, match="with examples 203, not 100"):
        net.fit(x[:100], y[:100], **FIT, resume=True)


def test_signal_handler_is_put_back() -> None:
    x, y = blobs()
    before = signal.getsignal(signal.SIGINT)
    network().fit(x, y, **FIT)
    assert signal.getsignal(signal.SIGINT) is before


def test_training_in_a_thread() -> None:
    x, y = blobs()
    one, two = network(), network()
    one.fit(x, y, **FIT)
    thread = threading.Thread(target=two.fit, args=(x, y), kwargs=FIT)
    thread.start()
    thread.join()
    np.testing.assert_array_equal(flat(one), flat(two))


def test_ctrl_c_in_the_last_piece_is_raised_too() -> None:
    x, y = blobs()
    net = network()
    with pytest.raises(KeyboardInterrupt):
        net.fit(x, y, **FIT, callbacks=[Interrupt(3, 21)])
    assert len(net.history) == 4


def test_ctrl_c_is_answered_within_two_seconds() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.random((20000, 300), np.float32), rng.integers(0, 10, 20000)
    net = gpubp.Network([300, 300, 10], rng=0)
    sent = []

    def press() -> None:
        time.sleep(0.5)
        sent.append(time.monotonic())
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=press)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        net.fit(x, y, epochs=10_000, batch_size=10, learning_rate=0.01)
    answered = time.monotonic()
    thread.join()
    assert answered - sent[0] <= 2.0


# Progress


def test_progress_is_silent_unless_asked(capsys: pytest.CaptureFixture[str]) -> None:
    x, y = blobs()
    network().fit(x, y, **FIT)
    assert capsys.readouterr().err == ""
    network().fit(x, y, **FIT, validation=(x, y), progress=True)
    shown = capsys.readouterr().err
    for word in ("epoch 4/4", "cost=", "accuracy=", "examples/s"):
        assert word in shown


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"epochs": -1}, "epochs=-1"),
        ({"epochs": 2.5}, "epochs=2.5"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"batch_size": 204}, "larger than the 203 examples"),
        ({"batch_size": True}, "batch_size=True"),
        ({"momentum": 1.0}, "momentum"),
        ({"momentum": -0.1}, "momentum"),
        ({"nesterov": True}, "needs a momentum"),
        ({"nesterov": "x"}, "nesterov='x' must be True or False"),
        ({"learning_rate": True}, "learning_rate=True must be a finite number above 0"),
        ({"l2": -1}, "l2"),
        ({"l1": math.nan}, "l1"),
        ({"shuffle": "yes"}, "shuffle='yes'"),
        ({"validation": 3}, "a pair"),
        ({"validation": (np.zeros((2, 4)), [0, 1])}, "validation x has 4 values"),
        ({"validation": (np.zeros((2, 5)), [0, 3])}, "validation y holds the label 3"),
    ],
)
def test_bad_settings_get_one_sentence(change: dict[str, Any], words: str) -> None:
    x, y = blobs()
    net = network()
    before = net.parameters.flat.copy()
    with pytest.raises((ValueError, TypeError)) as caught:
        net.fit(x, y, **FIT | change)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    np.testing.assert_array_equal(net.parameters.flat, before)
