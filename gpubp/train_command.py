"""``gpubp train``: train a network on a data set, or continue to train a saved one."""

from __future__ import annotations

import os
import shlex
import statistics
import sys
import tempfile
from argparse import Namespace
from collections.abc import Callable
from typing import Any

import numpy as np

from .activation import get_activation
from .arrays import check_count
from .backend import get_backend
from .callbacks import EarlyStopping
from .commands import (
    DataSet,
    Pair,
    check_sizes,
    check_writable,
    fitted,
    form_options,
    labelled_data,
    load_data,
    speed,
)  # fmt: skip
from .cost import get_cost
from .errors import CheckpointError
from .history import Epoch, History
from .initialise import get_initialiser
from .network import Network, load
from .optimizer import SGD, Optimizer, Update, choose_optimizer, from_description
from .output import say
from .printable import brief, figure
from .regression import Targets, squares_of
from .schedule import Schedule, make_schedule
from .training import Training

_NETWORK_OPTIONS = ("sizes", "activation", "cost", "init", "dtype", "rng")
_RATES = {False: 3.0, True: 0.03}  # of SGD; of a regression one that unsaturated outputs can stand
_LARGE = 10.0
_RUN_OPTIONS = ("data", "delimiter", "decimal", "header", "target", "task", "backend", "precision",
                "epochs", "learning_rate", "schedule", "l2", "l1", "early_stopping",
                "plot")  # fmt: skip


def train(args: Namespace) -> int:
    """All that can be refused is refused before the data are read and before training begins."""
    # No epochs are an evaluation, whatever the schedule.
    rate = args.learning_rate
    make_schedule(args.schedule, _RATES[False] if rate is None else rate, args.epochs or 1)
    callbacks = [EarlyStopping(args.early_stopping)] if args.early_stopping is not None else []
    if args.save is not None:
        check_writable(args.save, args.data)
    if args.plot is not None:
        check_writable(args.plot, args.data, args.resume, args.save)
        from .plot import check_plot

        check_plot(args.plot)
    network_options = _network_options(args) if args.resume is None else None
    net = None if args.resume is None else _saved_network(args)
    optimizer = _optimizer(args, net)
    check_count(args.epochs, "epochs", least=0)
    if args.batch_size is not None:
        check_count(args.batch_size, "batch_size")
    Update(optimizer, args.l2, args.l1)

    tell = (lambda text: None) if args.quiet else say
    if net is None:
        data = load_data(args.data, form_options(args))
    else:
        data = labelled_data(args, net, args.resume)
    tell(str(data))
    if data.real:
        _advise_scaling(data, tell)
    if rate is None:
        rate = _RATES[data.real] if isinstance(optimizer, SGD) else optimizer.usual_rate
    schedule = make_schedule(args.schedule, rate, args.epochs or 1)
    if network_options is not None:
        sizes = network_options.pop("sizes")
        sizes = [data.inputs, 30, data.outputs] if sizes is None else sizes
        check_sizes("--sizes", sizes, data)
        if data.real and not isinstance(network_options["activation"], list):
            hidden = [network_options["activation"]] * (len(sizes) - 2)
            network_options["activation"] = [*hidden, get_activation("identity")]
        net = Network(sizes, **network_options)
        net.classes, net.inputs, net.targets = data.names, data.columns, data.targets
    assert net is not None
    if args.resume is not None:
        data = fitted(data, net, args.resume)
        if args.save is None:
            tell("note: nothing is stored of this: --save FILE would keep it")
    tell(str(net))
    examples, validation = data.train, data.test
    if callbacks or args.schedule == "reduce_on_plateau":
        examples, validation = _hold_out(data)
        tell(f"validation: the last {len(validation[1])} of the training examples, held out")
    _fit_batch_size(args, len(examples[1]), tell)

    training, failed = net.training, None
    if training is not None and (training.stopped or training.epoch >= args.epochs):
        tell(f"{args.resume} has finished its training: --epochs counts from its beginning")
        if args.save is not None:
            net.save(args.save)
    else:
        failed = _fit(args, net, examples, validation, schedule, optimizer, callbacks)
    if args.save is not None and failed is None:
        tell(f"saved to {args.save}: the weights after {_weights_after(net)}")
    if args.plot is not None:
        from .plot import plot_history

        try:
            plot_history(net.history, args.plot, _r2(net, validation) if data.real else None)
            tell(f"plotted to {args.plot}")
        except BrokenPipeError:
            raise
        except OSError as error:  # the result is told all the same
            failed = failed or f"cannot plot to {args.plot}: {error.strerror or error}"
    test = net.evaluate(*data.test)
    summary = [*_best(net.history, bool(callbacks) or data.real, bool(callbacks)), f"test {test}"]
    if data.real:
        summary[-1] += f", {Targets(*data.test).judge(net, test.cost)}"
    if len(net.history):
        steps = -(-len(examples[1]) // args.batch_size)
        summary.append(speed(statistics.median(net.history.seconds), steps, len(examples[1])))
    say("  ".join(summary))
    if failed is not None:
        raise OSError(failed)
    return 0


def _fit(
    args: Namespace, net: Network, examples: Pair, validation: Pair, schedule: Schedule,
    optimizer: Optimizer, callbacks: list[Any],
) -> str | None:  # fmt: skip
    """Train with a line an epoch; whatever ends it, --save holds the state it leaves. Where that
    could not be written another file holds it: a sentence on that."""
    progress = args.progress
    if progress is None:
        progress = not args.quiet and sys.stderr.isatty()
    if not args.quiet:
        write = say
        if progress:
            from tqdm import tqdm

            def write(text: str) -> None:
                with tqdm.external_write_mode():  # clears the bar, and draws it again
                    say(text)

        targets = Targets(*validation) if validation[1].dtype.kind == "f" else None

        def row(training: Training) -> None:
            text, last = str(training.history[-1]), training.history[-1]
            if targets is not None:
                text += f"  {targets.judge(training.network, last.validation_cost)}"
            write(text)

        callbacks = [*callbacks, row]
    try:
        with np.errstate(all="ignore"):  # divergence is told in a sentence of its own
            net.fit(
                *examples, epochs=args.epochs, batch_size=args.batch_size,
                learning_rate=schedule, optimizer=optimizer, l2=args.l2, l1=args.l1,
                validation=validation, callbacks=callbacks, progress=progress,
                checkpoint=args.save, resume=args.resume is not None,
            )  # fmt: skip
    except CheckpointError as error:
        told, elsewhere = _save_elsewhere(net, args.save, error.reason)
        cause = error.__cause__
        if cause is None:
            return told
        if isinstance(cause, KeyboardInterrupt) and elsewhere is not None:
            told += f": continue with {_resume_command(args, elsewhere)}"
        where = f"interrupted in epoch {net.training.epoch if net.training else 0}"
        cause.args = (f"{where if isinstance(cause, KeyboardInterrupt) else cause}; {told}",)
        raise cause from None
    except KeyboardInterrupt as error:
        place = f"interrupted in epoch {net.training.epoch if net.training else 0}"
        if args.save is None:
            told = "nothing was saved, as --save was not given"
        elif net.training is None or not os.path.exists(args.save):
            told = "nothing was saved, as training had not begun"
        else:
            told = f"saved to {args.save}: continue with {_resume_command(args)}"
        error.args = (f"{place}; {told}",)
        raise
    return None


def _save_elsewhere(net: Network, path: str, why: Exception) -> tuple[str, str | None]:
    """(a sentence, the file): the trained network, saved where there is room for it."""
    name = os.path.basename(path)
    name = name if len(os.fsencode(name)) <= 100 else "network"
    for parent in (tempfile.gettempdir(), os.path.expanduser("~")):
        folder = None
        try:
            folder = tempfile.mkdtemp(prefix="gpubp-", dir=parent)
            elsewhere = os.path.join(folder, name)
            net.save(elsewhere)
        except (OSError, ValueError):
            if folder is not None:
                os.rmdir(folder)
            continue  # what is wrong with the file that was asked for is told
        return f"{why}; the network is saved in {elsewhere} instead", elsewhere
    return f"{why}; nor could the network be saved in the temporary folder or at home", None


def _advise_scaling(data: DataSet, tell: Callable[[str], None]) -> None:
    """A word on values far from unit size, which saturate neurons or make the steps too long."""
    x, y = data.train
    largest = 1.0 if x.dtype == np.uint8 else float(np.abs(x).max()), float(np.abs(y).max())
    if max(largest) > _LARGE:
        tell(
            f"note: inputs reach {largest[0]:g} and targets {largest[1]:g}: values of about 1 are "
            "learnt best; scale the columns, as nothing but images is scaled here"
        )


def _network_options(args: Namespace) -> dict[str, Any]:
    """The arguments of ``Network``, its names looked up now: a typo should not cost time."""
    try:
        sizes = None if args.sizes is None else [int(item) for item in args.sizes.split(",")]
    except ValueError:
        raise ValueError(f"--sizes {args.sizes!r} must be whole numbers as 784,30,10") from None
    names = ["sigmoid"] if args.activation is None else _split(args.activation)
    activations = [get_activation(name) for name in names]
    return {
        "sizes": sizes,
        "activation": activations if len(activations) > 1 else activations[0],
        "cost": get_cost("quadratic" if args.cost is None else args.cost),
        "init": get_initialiser("scaled" if args.init is None else args.init),
        "dtype": "float32" if args.dtype is None else args.dtype,
        "rng": 0 if args.rng is None else args.rng,
        "backend": get_backend(args.backend),
        "precision": args.precision,
    }


def _split(text: str) -> list[str]:
    """The items between commas; a comma inside parentheses belongs to a formula: max(z, 0)."""
    items, depth = [""], 0
    for character in text:
        depth += (character == "(") - (character == ")")
        if character == "," and not depth:
            items.append("")
        else:
            items[-1] += character
    return [item.strip() for item in items]


def _saved_network(args: Namespace) -> Network:
    """The network in --resume, whose run gives --batch-size its default."""
    for name in _NETWORK_OPTIONS:
        if getattr(args, name) is not None:
            raise ValueError(f"--{name} is part of {args.resume}: leave it out with --resume")
    net = load(args.resume, args.backend, args.precision)
    if net.training is None:
        raise ValueError(f"{args.resume} holds a network without training: nothing to resume")
    if args.batch_size is None:
        args.batch_size = net.training.batch_size
    return net


def _optimizer(args: Namespace, net: Network | None) -> Optimizer:
    """That of the options; of a resumed run its own, where they say nothing."""
    given = any(value is not None for value in (args.optimizer, args.momentum, args.nesterov))
    if net is None or net.training is None or given:
        return choose_optimizer(args.optimizer or "sgd", args.momentum or 0.0, bool(args.nesterov))
    found = from_description(net.training.optimizer)
    if found is None:
        raise ValueError(
            f"{args.resume} was trained by an optimizer of its own, "
            f"{brief(net.training.optimizer['name'])}: continue it in Python, with that optimizer"
        )
    return found


def _hold_out(data: DataSet) -> tuple[Pair, Pair]:
    """(the first five sixths of the training part, its last sixth)."""
    x, y = data.train
    cut = len(y) - max(1, len(y) // 6)
    if not cut:
        raise ValueError("one training example is too few to hold out a validation part")
    return (x[:cut], y[:cut]), (x[cut:], y[cut:])


def _r2(net: Network, validation: Pair) -> list[float | None] | None:
    """R2 after each epoch, where the cost says it."""
    targets = Targets(*validation)
    squares = [squares_of(net.cost, cost) for cost in net.history.validation_cost]
    r2 = [None if value is None else targets.goodness(value).r2 for value in squares]
    return r2 if any(value is not None for value in r2) else None


def _fit_batch_size(args: Namespace, examples: int, tell: Callable[[str], None]) -> None:
    """--batch-size, or 10, or all the examples that there are."""
    if args.batch_size is None:
        args.batch_size = min(10, examples)
        if examples < 10:
            tell(f"note: --batch-size is {examples}, as there are no more examples to train on")
    if args.batch_size > examples:
        raise ValueError(
            f"--batch-size {args.batch_size} is larger than the {examples} examples to train on"
        )


def _weights_after(net: Network) -> str:
    """Which epoch's weights the network has: early stopping goes back to the best ones."""
    t = net.training
    epochs = len(net.history) if t is None or t.last is None else t.best_after
    return f"epoch {epochs - 1}" if epochs else "no epoch"


def _best(history: History, by_cost: bool, kept: bool) -> list[str]:
    """The best epoch in words: by validation cost where its weights were kept or where nothing else
    is to be had, else by accuracy."""
    if not len(history):
        return []
    if by_cost:
        best, text = min(history, key=_validation_cost), ", kept" if kept else ""
        return [f"best epoch {best.epoch} (validation cost {figure(_validation_cost(best))}{text})"]
    best = max(history, key=lambda row: row.validation_accuracy or 0.0)
    if best.validation_accuracy is None:  # the network tells no classes
        return []
    return [f"best epoch {best.epoch} (accuracy {100 * best.validation_accuracy:.2f}%)"]


def _validation_cost(row: Epoch) -> float:
    return float("inf") if row.validation_cost is None else row.validation_cost


def _resume_command(args: Namespace, file: str | None = None) -> str:
    """What continues the run that ``file`` holds, or else --save."""
    file = file or args.save
    words = ["gpubp", "train", "--resume", file, "--save", file]
    for name in _RUN_OPTIONS:
        value = getattr(args, name)
        if value != args.default(name) or name == "epochs":
            option = f"--{'no-' if value is False else ''}{name.replace('_', '-')}"
            if str(value).startswith("-"):
                words.append(f"{option}={value}")  # alone it would be taken for an option
            else:
                words += [option, *([] if isinstance(value, bool) else [str(value)])]
    return shlex.join(words)
