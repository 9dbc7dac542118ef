"""Many networks side by side: each trains by the one loop of :mod:`gpubp.sgd`, as if alone.

The compiled Steppers let go of Python's interpreter lock, so on the CPU a network a processor core
trains at full speed, without the barriers that several threads in one small network would need.
What networks share is x and y, checked once and never copied; what differs is each one's own.

A worker trains a network for about a second, so that its weights stay in the core's caches, and
takes the next one in the queue. So all are about equally far at any time, and none is left to a
single core at the end. Where the backend's kernels have ``side_by_side``, as those of a GPU, one
worker trains all networks of a kind together, a launch for the next piece of each.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, overload

import numpy as np

from .alone import training_alone
from .arrays import as_array
from .errors import DivergenceError
from .examples import Examples, check_examples, check_validation
from .fleet_result import FleetResult, FleetRow
from .interrupt import deferred_interrupt
from .network import Network
from .optimizer import Optimizer
from .plan import threads_at_hand
from .printable import brief
from .progress import Bar
from .schedule import Schedule
from .settings import SETTINGS, Settings, Shuffle
from .sgd import Piece, Run
from .weighting import ClassWeight

_TURN_SECONDS = 1.0  # a network trains before the next has its turn


class Fleet(Sequence[Network]):
    """Networks that train side by side on the same data, each as it would alone.

    They may differ in anything: seeds, sizes, activations, costs, dtypes, even backends. On the CPU
    each trains in one thread, several at a time, on as many cores as there are (or
    ``$GPUBP_NUM_THREADS``); cores that a small fleet leaves over serve its networks. Small networks
    of one kind on a GPU train in one launch; others there, and those of ``backend="reference"``,
    one after another.

    Args:
        networks: one or more :class:`~gpubp.Network`, each with a generator of its own.
    """

    def __init__(self, networks: Iterable[Network]) -> None:
        try:
            self._networks = tuple(networks)
        except TypeError:
            raise TypeError(
                f"a fleet is made of a list of networks, not of {brief(networks)}"
            ) from None
        if not self._networks:
            raise ValueError("a fleet needs at least one network")
        seen: dict[int, int] = {}
        generators: dict[int, int] = {}
        for i, network in enumerate(self._networks):
            if not isinstance(network, Network):
                raise TypeError(f"network {i} is {brief(network)}, not a gpubp.Network")
            first = seen.setdefault(id(network), i)
            if first != i:
                raise ValueError(f"networks {first} and {i} are the same object: build one each")
            first = generators.setdefault(id(network.rng.bit_generator), i)
            if first != i:
                raise ValueError(
                    f"networks {first} and {i} draw from the same generator, in an order that "
                    "would depend on the clock: give each an rng of its own"
                )
        self._seeds: list[int] = []
        self._settings: dict[str, list[Any]] = {}
        self._errors: list[DivergenceError | None] = [None] * len(self)

    @classmethod
    def of(cls, sizes: Sequence[int], *, rng: Iterable[Any], **network: Any) -> Fleet:
        """Networks of one kind from many seeds: ``Fleet.of([784, 30, 10], rng=range(64))``.

        ``rng`` holds a seed, generator or SeedSequence for each; the other keywords are those of
        :class:`~gpubp.Network`, for all.
        """
        try:
            seeds = list(rng)
        except TypeError:
            raise TypeError(
                f"rng={brief(rng)} must hold one seed a network: range(64), say"
            ) from None
        fleet = cls(Network(sizes, rng=seed, **network) for seed in seeds)
        if all(isinstance(seed, (int, np.integer)) for seed in seeds):
            fleet._seeds = [int(seed) for seed in seeds]
        return fleet

    @overload
    def __getitem__(self, index: int) -> Network: ...
    @overload
    def __getitem__(self, index: slice) -> Fleet: ...
    def __getitem__(self, index: int | slice) -> Network | Fleet:
        return Fleet(self._networks[index]) if isinstance(index, slice) else self._networks[index]

    def __len__(self) -> int:
        return len(self._networks)

    def __repr__(self) -> str:
        shown = [repr(network) for network in self._networks]
        kinds = "\n".join(f"  {shown.count(kind)} x {kind}" for kind in dict.fromkeys(shown))
        return f"Fleet of {len(self)}:\n{kinds}"

    @property
    def result(self) -> FleetResult:
        """How the networks stand now: after ``fit`` what it returned, also when it was
        interrupted."""
        columns = self._columns()
        return FleetResult(
            self._row(i, {name: values[i] for name, values in columns.items()})
            for i in range(len(self))
        )

    def fit(
        self,
        x: Any,
        y: Any,
        *,
        epochs: int | Sequence[int],
        batch_size: int | Sequence[int],
        learning_rate: float | Schedule | Callable[[int], float] | Sequence[Any],
        optimizer: str | Optimizer | Sequence[str | Optimizer] = "sgd",
        momentum: float | Sequence[float] = 0.0,
        nesterov: bool | Sequence[bool] = False,
        l2: float | Sequence[float] = 0.0,
        l1: float | Sequence[float] = 0.0,
        clip_norm: float | Sequence[float | None] | None = None,
        shuffle: Shuffle | Sequence[Shuffle] = True,
        sample_weight: Any = None,
        class_weight: ClassWeight | Sequence[ClassWeight] = None,
        validation: tuple[Any, ...] | None = None,
        folds: Iterable[tuple[Any, Any]] | None = None,
        callbacks: Sequence[Any] | Callable[[int], Sequence[Any]] = (),
        progress: bool | None = None,
        resume: bool = False,
    ) -> FleetResult:
        """Train all networks by mini-batch SGD, each as :meth:`gpubp.Network.fit` would: the same
        weights, bit for bit; to rounding where so many share a GPU that each has a smaller part of
        it than it would have alone.

        ``epochs`` to ``shuffle`` mean what they mean there. One value goes to all networks; a list
        (tuple, range or 1-D array) holds one a network. A network that diverges keeps its last
        finite weights, and its row of the result the DivergenceError; the others go on.

        Args:
            x, y: the examples that all networks share; ``sample_weight`` and ``class_weight`` are
                theirs. "balanced" is meant of each fold's training rows.
            validation: a pair (x, y) or a triple (x, y, sample_weight), evaluated after each epoch
                of each network.
            folds: in its place, one pair (training rows, validation rows) a network, as
                scikit-learn's ``KFold(n).split(x)`` gives them: it trains as on ``x[rows]``, which
                is not copied. Rows may repeat; for no validation rows give ``None``.
            callbacks: as there, the same for each network; they are called from several threads.
                Those that keep something of one network: a function of its index that returns
                its list.
            progress: one bar over all networks; ``None`` shows it on a terminal only.
            resume: continue the runs that the networks carry, after Ctrl-C or ``gpubp.load``;
                those that had finished stay as they are.

        Raises:
            ValueError, TypeError: one sentence on what cannot be trained with.
            RuntimeError: a network is in training already, by another thread or by the fit whose
                callback calls this one.
            KeyboardInterrupt: Ctrl-C, every network at a step boundary; ``result`` has what they
                reached, and ``resume=True`` continues.
        """
        given = (
            epochs, batch_size, learning_rate, optimizer, momentum, nesterov, l2, l1, clip_norm,
            shuffle, class_weight,
        )  # fmt: skip
        settings = {
            name: _each(name, value, len(self)) for name, value in zip(SETTINGS, given, strict=True)
        }
        if isinstance(callbacks, Iterable):
            callbacks = list(callbacks)
        data = _Data(self._networks, x, y, sample_weight, validation, folds)
        threads = max(1, threads_at_hand() // len(self))
        with training_alone(self._networks):
            runs = []
            for i, network in enumerate(self._networks):
                own = {name: values[i] for name, values in settings.items()}
                with network.backend.device(), _naming(i):
                    runs.append(
                        Run(network, *data.of(i), Settings(**own), resume=resume, threads=threads,
                            callbacks=callbacks(i) if callable(callbacks) else callbacks)
                    )  # fmt: skip
            groups = list(_groups(runs))
            for run in runs:
                with run.network.backend.device():
                    run.begin()
            self._settings = settings
            self._errors = [None] * len(self)
            _train(runs, groups, self._errors, progress)
        return self.result

    def _row(self, index: int, settings: dict[str, Any]) -> FleetRow:
        network, error = self._networks[index], self._errors[index]
        t, history = network.training, network.history
        held = t.best_after if t is not None and t.last is not None else len(history)
        now = history[held - 1] if held else None
        if t is None:
            status = "not trained"
        elif error is not None:
            status = f"diverged in epoch {error.epoch}, step {error.step}"
        elif t.stopped:
            status = f"stopped after epoch {t.epoch - 1}"
        elif t.epoch >= t.epochs:
            status = "finished"
        else:
            status = f"interrupted in epoch {t.epoch}, step {t.step}"
        cost, validation_cost, validation_accuracy = (
            getattr(now, name, None) for name in ("cost", "validation_cost", "validation_accuracy")
        )
        return FleetRow(
            index, network, settings, len(history), cost, validation_cost, validation_accuracy,
            sum(history.seconds), status, error,
        )  # fmt: skip

    def _columns(self) -> dict[str, Sequence[Any]]:
        """The settings in which the networks differ, one value a network."""
        names = [[activation.name for activation in n.activations] for n in self._networks]
        columns: dict[str, Sequence[Any]] = {
            "rng": self._seeds or [None] * len(self),
            "sizes": [list(network.sizes) for network in self._networks],
            "activation": [own[0] if len(set(own)) == 1 else own for own in names],
            "cost_function": [network.cost.name for network in self._networks],
            "dtype": [network.dtype for network in self._networks],
            "backend": [network.backend.name for network in self._networks],
            **self._settings,
        }
        return {
            name: values
            for name, values in columns.items()
            if any(value is not values[0] and value != values[0] for value in values)
        }


@contextmanager
def _naming(index: int) -> Iterator[None]:
    """What is wrong inside is said of that network."""
    try:
        yield
    except (TypeError, ValueError) as error:
        if type(error) not in (TypeError, ValueError):
            raise
        raise type(error)(f"network {index}: {error}") from error


def _each(name: str, value: Any, count: int) -> list[Any]:
    """One value a network: a list holds them, anything else goes to all."""
    if isinstance(value, np.ndarray) and value.ndim:
        value = value.tolist()
    if not isinstance(value, (list, tuple, range)):
        return [value] * count
    if len(value) != count:
        raise ValueError(
            f"{name} holds {len(value)} values, but the fleet {count} networks: give one a "
            "network, or a single value for all"
        )
    return list(value)


class _Data:
    """The examples that each network trains on and is validated on: x and y checked once for all
    networks that take them in the same form, and of them the rows of each one's fold."""

    def __init__(
        self, networks: Sequence[Network], x: Any, y: Any, sample_weight: Any, validation: Any,
        folds: Any,
    ) -> None:  # fmt: skip
        if folds is not None and validation is not None:
            raise ValueError("pass validation or folds, which have validation rows, not both")
        self._networks, self._given = networks, (x, y, sample_weight)
        self._validation = validation
        self._folds = None if folds is None else _list_folds(folds, len(networks))
        self._shared: dict[Any, tuple[Examples, Examples | None]] = {}

    def of(self, index: int) -> tuple[Examples, Examples | None]:
        network = self._networks[index]
        form = (
            network.backend, network.dtype, network.sizes[0], network.sizes[-1],
            network.cost.unit_interval,
        )  # fmt: skip
        if form not in self._shared:
            found, near = check_examples(network, *self._given), network.backend.near
            self._shared[form] = (
                replace(found, x=near(found.x), y=near(found.y)),
                check_validation(network, self._validation),
            )
        examples, validation = self._shared[form]
        if self._folds is None:
            return examples, validation
        try:
            rows, held_out = self._folds[index]
        except (TypeError, ValueError):
            raise ValueError("its fold must be a pair (training rows, validation rows)") from None
        if held_out is not None:
            validation = _some(examples, held_out, "its validation rows")
        return _some(examples, rows, "its training rows"), validation


def _list_folds(folds: Any, count: int) -> list[Any]:
    try:
        pairs = list(folds)
    except TypeError:
        raise TypeError(f"folds={brief(folds)} must hold one pair of rows a network") from None
    if len(pairs) != count:
        raise ValueError(
            f"folds holds {len(pairs)} pairs, but the fleet {count} networks: give one a network"
        )
    return pairs


def _some(examples: Examples, rows: Any, name: str) -> Examples:
    """Of these examples the rows named, after a check that they are rows."""
    rows = as_array(np, rows, name)
    if rows.ndim != 1 or rows.dtype.kind not in "iu" or not rows.size:
        raise ValueError(
            f"{name} are {rows.dtype} of shape {rows.shape}, but must be one or more integer "
            "indices (np.flatnonzero gives those of a mask)"
        )
    low, high, last = int(rows.min()), int(rows.max()), len(examples) - 1
    if low < 0 or high > last:
        raise ValueError(
            f"{name} name the row {low if low < 0 else high}, but x has rows 0 to {last}"
        )
    if examples.weights is not None and not examples.weights[rows].any():
        raise ValueError(f"{name} have a sample_weight of 0 each: there is nothing to look at")
    return replace(examples, rows=rows.astype(np.int64, copy=False))


def _groups(runs: Sequence[Run]) -> Iterator[tuple[list[int], Any]]:
    """By index those that train in one launch, and how; or one network, and None.

    A group has all networks of a kind, also those that had finished before: so a fleet that is
    resumed trains in the shape that it had."""
    kinds: dict[Any, list[int]] = {}
    for i, run in enumerate(runs):
        backend, examples = run.network.backend, run.examples
        kind = (backend, run.plan, id(examples.x), id(examples.y))
        kinds.setdefault(kind if hasattr(backend.kernels, "side_by_side") else i, []).append(i)
    for members in kinds.values():
        run, together = runs[members[0]], None
        backend, examples = run.network.backend, run.examples
        if hasattr(backend.kernels, "side_by_side"):
            with backend.device():
                together = backend.kernels.side_by_side(
                    run.plan, len(members), examples.x, examples.y
                )
        if together is None:
            yield from (([i], None) for i in members)
        else:
            yield members, together


def _train(
    runs: Sequence[Run], groups: Sequence[tuple[list[int], Any]],
    errors: list[DivergenceError | None], progress: bool | None,
) -> None:  # fmt: skip
    """Drive the runs to their ends by several workers; keep the DivergenceErrors, by index."""
    bar = Bar(progress, [run.training for run in runs])

    def diverged(i: int, error: DivergenceError) -> None:
        errors[i] = error
        bar.give_up(runs[i].training)

    parties = [
        _Alone(members[0], runs[members[0]], bar, diverged) if together is None
        else _Together({i: runs[i] for i in members}, together, bar, diverged)
        for members, together in groups
    ]  # fmt: skip
    queues: dict[Any, deque[_Alone | _Together]] = {}
    for party in parties:
        queues.setdefault(party.backend, deque()).append(party)
    # The compiled engines alone run beside each other: NumPy holds the interpreter, and a GPU is
    # full with one.
    workers = {
        backend: min(len(queue), threads_at_hand()) if backend.name == "cpu" else 1
        for backend, queue in queues.items()
    }
    failures: list[BaseException] = []

    def work(queue: deque[_Alone | _Together], stopping: Callable[[], bool]) -> None:
        # A queue that is found empty stays so for this worker: the others have the last networks.
        while queue and not stopping():
            try:
                party = queue.popleft()
            except IndexError:
                return
            try:
                with party.backend.device():
                    finished = party.turn(stopping)
            except BaseException as error:
                failures.append(error)
            else:
                if not finished:
                    queue.append(party)

    with deferred_interrupt() as interrupted, ThreadPoolExecutor(sum(workers.values())) as pool:

        def stopping() -> bool:
            return bool(failures) or interrupted()

        try:
            futures = [
                pool.submit(work, queue, stopping)
                for backend, queue in queues.items()
                for _ in range(workers[backend])
            ]
            while wait(futures, timeout=0.1).not_done:
                pass  # here a second Ctrl-C would strike
            for future in futures:
                future.result()
        except BaseException as error:
            failures.append(error)
        finally:
            bar.close()
    for party in parties:
        with party.backend.device():
            party.close()
    # What made the workers stop comes before the KeyboardInterrupt with which the loop obeys.
    for failure in failures:
        if not isinstance(failure, KeyboardInterrupt):
            raise failure
    if failures or interrupted():
        raise interrupted.exception()


class _Alone:
    """A network that trains by itself, whole epochs at a time."""

    def __init__(
        self, index: int, run: Run, bar: Bar, diverged: Callable[[int, DivergenceError], None]
    ) -> None:
        self.backend = run.network.backend
        self._index, self._run, self._bar, self._diverged = index, run, bar, diverged

    def turn(self, stopping: Callable[[], bool]) -> bool:
        """Train for a turn; whether that was the last."""
        run, until = self._run, time.monotonic() + _TURN_SECONDS
        try:
            while run.unfinished:
                run.epoch(stopping, self._bar)
                if time.monotonic() >= until:
                    break
        except DivergenceError as error:
            self._diverged(self._index, error)
            return True
        finally:
            run.rest()
        if not run.unfinished:
            run.finish()
        return not run.unfinished

    def close(self) -> None:
        """Nothing is left open between turns."""


class _Together:
    """Networks of one kind whose next pieces train in one launch, those that there still are.

    Nobody waits for another: a network that ends, in whatever way, hands in no further piece. They
    keep one pace, the longest that the seconds of their launches allow one of them, so that most
    pieces are as long as each other.
    """

    def __init__(
        self, runs: dict[int, Run], side_by_side: Any, bar: Bar,
        diverged: Callable[[int, DivergenceError], None],
    ) -> None:  # fmt: skip
        self.backend = next(iter(runs.values())).network.backend
        self._side_by_side, self._diverged = side_by_side, diverged
        for run in runs.values():
            run.stepper = side_by_side.stepper(run.plan, run.parameters)
        self._going = {i: _pieces(run, bar) for i, run in runs.items()}
        self._next: list[Piece] = []

    def turn(self, stopping: Callable[[], bool]) -> bool:
        """Train for a turn; whether that was the last."""
        until = time.monotonic() + _TURN_SECONDS
        with ThreadPoolExecutor(threads_at_hand()) as hands:
            while self._going and not stopping():
                if self._next:
                    self._train(hands)
                self._take()
                if time.monotonic() >= until:
                    break
        return not self._going

    def _train(self, hands: ThreadPoolExecutor) -> None:
        """The pieces taken, in one launch. Drawing an epoch's order takes long beside that, so many
        are drawn at once."""
        pieces = self._next
        for _ in hands.map(Run.order, [piece.run for piece in pieces if not piece.rows.start]):
            pass
        asked = [(piece.run.stepper, *piece.asked) for piece in pieces]
        started = time.perf_counter()
        costs = self._side_by_side.run(asked)
        seconds = time.perf_counter() - started
        for piece, own in zip(pieces, costs, strict=True):
            piece.costs, piece.seconds = own, seconds

    def _take(self) -> None:
        """Of each network the next piece, after all that follows from its last one."""
        pace = max((piece.run.pace for piece in self._next), default=1)
        for piece in self._next:
            piece.run.pace = pace
        self._next = []
        for i, pieces in list(self._going.items()):
            try:
                self._next.append(next(pieces))
                continue
            except StopIteration:
                pass
            except DivergenceError as error:
                self._diverged(i, error)
            del self._going[i]

    def close(self) -> None:
        """Bring those that were stopped back to where their last piece ended."""
        for pieces in self._going.values():
            pieces.close()


def _pieces(run: Run, bar: Bar) -> Generator[Piece, None, None]:
    """Those of all epochs. Who takes them looks for Ctrl-C himself, when he has taken all."""
    while run.unfinished:
        yield from run.pieces(lambda: False, bar)
    run.finish()
