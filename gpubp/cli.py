"""The command line: ``gpubp train | evaluate | predict | explain | data | bench | doctor``.

Exit codes: 0; 1 where ``doctor`` finds a fault; 2 for what cannot be done as asked; 3 where
training diverged; 130 after Ctrl-C, 143 after SIGTERM and 129 after SIGHUP; 141 where the reader of
the output has gone. Each failure is one sentence on stderr; with ``GPUBP_DEBUG=1`` in the
environment, the traceback instead.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any, NoReturn

from . import __version__
from .errors import BackendUnavailable, DivergenceError, unknown
from .interrupt import uninterrupted
from .output import complain, discard_output, speaking, unsaid

DATA_HELP = (
    "digits28 (drawn by formula, no download), mnist (downloaded once into the cache), a folder of "
    "four IDX files, an .npz, a .csv or .tsv file (values as they stand, but 784 integers from 0 "
    "to 255 a row, as in MNIST, are intensities, read as x/255); without it: MNIST, from "
    "$GPUBP_DATA or the cache, else digits28"
)
FORM_NOTES = "What is left out is guessed from the first lines, and told in the line 'data:'."
TRAIN_NOTES = """\
The data's test part is shown after each epoch. With --early-stopping, or --schedule
reduce_on_plateau, something must watch a validation cost: the last sixth of the training part is
then held out for that, and the test part is evaluated only once, at the end.

With --resume FILE the network, the order of examples, the optimizer with its state and the history
come from FILE; so do --batch-size, --optimizer, --momentum and --nesterov unless they are given
(they must be the same). All other options of training (learning rate, schedule, l2, l1, early
stopping, data) are NOT in FILE: give them as you did at first.

A custom activation is a formula in z, a custom cost a formula in a and y: --cost "abs(a - y)".
"""


# What other tools call these options, in letters and digits alone.
_ELSEWHERE = {
    **dict.fromkeys(("lr", "eta", "rate", "stepsize", "learningrateinit"), "--learning-rate"),
    **dict.fromkeys(("batch", "bs", "m", "minibatch", "minibatchsize"), "--batch-size"),
    **dict.fromkeys(("seed", "randomstate", "randomseed"), "--rng"),
    **dict.fromkeys(("hidden", "layers", "hiddenlayersizes", "architecture"), "--sizes"),
    **dict.fromkeys(("output", "out", "o", "checkpoint", "model"), "--save"),
    **dict.fromkeys(("loss", "objective"), "--cost"),
    **dict.fromkeys(("optim", "opt", "solver", "optimiser"), "--optimizer"),
    **dict.fromkeys(("device", "gpu", "cuda", "cpu"), "--backend"),
    **dict.fromkeys(("patience",), "--early-stopping"),
    **dict.fromkeys(("weightdecay", "reg", "lambda", "alpha"), "--l2"),
    **dict.fromkeys(("dataset", "train", "input", "file", "csv"), "--data"),
    **dict.fromkeys(("sep", "separator"), "--delimiter"),
    **dict.fromkeys(("label", "labels", "y", "targetcolumn"), "--target"),
    **dict.fromkeys(("epoch", "iterations", "maxiter", "nepochs"), "--epochs"),
    **dict.fromkeys(("initializer", "initialiser", "weights"), "--init"),
    **dict.fromkeys(("scheduler", "lrschedule"), "--schedule"),
    **dict.fromkeys(("load", "continue"), "--resume"),
    **dict.fromkeys(("silent", "q"), "--quiet"),
}


class _Parser(argparse.ArgumentParser):
    """Bad arguments are ``ValueError``, so that every failure is told in one place."""

    def error(self, message: str) -> NoReturn:
        raise ValueError(f"{message} (see '{self.prog} --help')")

    def parse_strictly(self, argv: Sequence[str]) -> argparse.Namespace:
        """The parsed arguments; of what is left over, the nearest option is named."""
        args, rest = self.parse_known_args(argv)
        if rest and rest[0].startswith("-"):
            options = set(re.findall(r"--[\w-]+", self.format_usage()))
            elsewhere = {name: ours for name, ours in _ELSEWHERE.items() if ours in options}
            raise unknown("option", rest[0].partition("=")[0], options, elsewhere)
        if rest and "--data" in self.format_usage():
            raise ValueError(f"one argument too many: {rest[0]!r}: did you mean --data {rest[0]}?")
        if rest:
            raise ValueError(f"one argument too many: {rest[0]!r} (see '{self.prog} --help')")
        return args


def _parser(command: str, summary: str, **options: Any) -> _Parser:
    return _Parser(prog=f"gpubp {command}", description=summary, allow_abbrev=False, **options)


def _backend_option(parser: Any) -> None:
    parser.add_argument("--backend", default="cpu", metavar="NAME", help="cpu, cuda or reference")


def _form_options(parser: Any) -> None:
    """What says how a text file is read; the names are those of the keywords of ``data.load``."""
    add = parser.add_argument_group("how a .csv or .tsv file is read", FORM_NOTES).add_argument
    add("--delimiter", metavar="C", help="one character, or comma, semicolon, tab, bar, space")
    add("--decimal", metavar="C", help="the decimal mark: . or ,")
    add("--header", action=argparse.BooleanOptionalAction,
        help="whether the first line names the columns")  # fmt: skip
    add("--target", metavar="NAME|INDEX", help="the column to predict, by its name or from 0, -1 "
        "being the last; of a regression several: --target=-2,-1")  # fmt: skip
    add("--task", metavar="NAME", help="classification or regression (of an .npz too)")


def _train(summary: str) -> _Parser:
    raw = argparse.RawDescriptionHelpFormatter
    parser = _parser("train", summary, epilog=TRAIN_NOTES, formatter_class=raw)
    add = parser.add_argument_group("data").add_argument
    add("--data", metavar="DATA", help=DATA_HELP)
    _form_options(parser)

    group = parser.add_argument_group("network")
    add = group.add_argument
    add("--sizes", metavar="N,N,...", help="neurons a layer (default: inputs,30,classes; of a "
        "regression inputs,30,targets)")  # fmt: skip
    add("--activation", metavar="NAME[,NAME...]", help="for all layers, or one a layer with "
        "weights (default: sigmoid); a regression's outputs are identity unless each layer has its "
        "own")  # fmt: skip
    add("--cost", metavar="NAME", help="quadratic (default), sum_squares, cross_entropy, "
        "log_likelihood, huber")  # fmt: skip
    add("--init", metavar="NAME", help="scaled (default), normal, glorot, he, lecun, orthogonal")
    add("--dtype", metavar="NAME", help="float32 (default) or float64")
    add("--rng", type=int, metavar="SEED", help="of weights and order of examples (default: 0)")
    _backend_option(group)
    add("--precision", metavar="NAME", help="tf32 or bf16: products on a GPU's tensor cores")

    add = parser.add_argument_group("training").add_argument
    add("--epochs", type=int, default=30, metavar="N", help="in total (default: %(default)s)")
    add("--batch-size", type=int, metavar="M", help="examples a mini-batch (default: 10)")
    add("--learning-rate", type=float, metavar="ETA", help="(default: of sgd 3.0, of a regression "
        "by sgd 0.03, else what is usual for the optimizer)")  # fmt: skip
    add("--schedule", default="constant", metavar="NAME", help="constant (default), step, "
        "exponential, cosine, one_cycle, inverse_scaling, reduce_on_plateau")  # fmt: skip
    add("--optimizer", metavar="NAME", help="sgd (default), adam, adamw, nadam, rmsprop, adagrad, "
        "lion")  # fmt: skip
    add("--momentum", type=float, metavar="MU", help="in [0, 1) (default: 0)")
    add("--nesterov", action="store_true", default=None, help="Nesterov's momentum")
    add("--l2", type=float, default=0.0, metavar="X", help="coefficient of 1/2 ||w||^2")
    add("--l1", type=float, default=0.0, metavar="X", help="coefficient of |w|")
    add("--early-stopping", type=int, metavar="PATIENCE",
        help="stop after so many epochs without a lower validation cost; keep the best weights"
        )  # fmt: skip

    add = parser.add_argument_group("files and output").add_argument
    add("--save", metavar="FILE",
        help="checkpoint, written while training, at the end and on Ctrl-C")  # fmt: skip
    add("--resume", metavar="FILE", help="continue the run saved in FILE, up to --epochs in total")
    add("--plot", metavar="FILE.png", help="learning curves")
    add("--progress", action=argparse.BooleanOptionalAction,
        help="progress bar on stderr (default: on a terminal only)")  # fmt: skip
    add("--quiet", action="store_true", help="print the last line only")
    return parser


def _evaluate(summary: str) -> _Parser:
    parser = _parser("evaluate", summary)
    parser.add_argument("file", metavar="FILE", help="a checkpoint")
    parser.add_argument("--data", metavar="DATA", help=DATA_HELP)
    parser.add_argument("--part", default="test", metavar="NAME",
                        help="test (default; of data in one part the sixth that training left "
                        "out), train or all")  # fmt: skip
    _backend_option(parser)
    _form_options(parser)
    return parser


def _predict(summary: str) -> _Parser:
    parser = _parser("predict", summary)
    parser.add_argument("file", metavar="FILE", help="a checkpoint")
    parser.add_argument("--data", metavar="DATA", required=True,
                        help="all rows of a .csv or .tsv (with targets or without) or .npz file; "
                        "of data with a test part, its test part; targets are ignored"
                        )  # fmt: skip
    parser.add_argument("--output", metavar="FILE.csv", help="instead of stdout")
    parser.add_argument("--proba", action="store_true", help="add the probability of each class")
    _backend_option(parser)
    _form_options(parser)
    return parser


def _data(summary: str) -> _Parser:
    parser = _parser("data", summary)
    parser.add_argument("--data", metavar="DATA", help=DATA_HELP)
    parser.add_argument("--out", metavar="FOLDER", help="write it as four IDX .gz files")
    _form_options(parser)
    return parser


def _bench(summary: str) -> _Parser:
    parser = _parser("bench", summary)
    parser.add_argument("--epochs", type=int, default=5, metavar="N",
                        help="timed, after one to warm up (default: %(default)s)")  # fmt: skip
    _backend_option(parser)
    return parser


def _explain(summary: str) -> _Parser:
    parser = _parser("explain", summary)
    add = parser.add_argument
    add("file", metavar="FILE", help="a checkpoint")
    add("--data", metavar="DATA", help=DATA_HELP)
    add("--part", default="test", metavar="NAME", help="test (default) or train")
    add("--example", type=int, default=0, metavar="I", help="of the part, from 0 (default: 0)")
    add("--show", default="trace,health,paths", metavar="NAME[,NAME...]",
        help="trace, health, paths (default: all three)")  # fmt: skip
    add("--weight", metavar="L,J,K", help="whose paths: from neuron K of layer L - 1 to neuron J "
        "of layer L (default: that of layer 2 with the largest gradient)")  # fmt: skip
    add("--plot", metavar="FILE.png",
        help="a picture; of several parts one each, FILE-trace.png and so on")  # fmt: skip
    add("--html", metavar="FILE.html", help="one self-contained page to click through")
    add("--examples", type=int, default=10, metavar="N",
        help="on the page, from --example on (default: %(default)s)")  # fmt: skip
    _backend_option(parser)
    _form_options(parser)
    return parser


def _doctor(summary: str) -> _Parser:
    return _parser("doctor", summary)


# command: (its parser, the module with a function of its name, one line)
_COMMANDS = {
    "train": (_train, "train_command", "Train a network by mini-batch SGD."),
    "evaluate": (
        _evaluate,
        "commands",
        "Cost, accuracy and confusions, or R2, of a saved network.",
    ),
    "predict": (_predict, "predict_command", "Predicted classes or values as CSV."),
    "explain": (_explain, "explain_command", "See a saved network work: trace, health, paths."),
    "data": (_data, "commands", "Show what a data set holds; write it as IDX files."),
    "bench": (_bench, "commands", "Time two networks on this machine."),
    "doctor": (_doctor, "doctor", "Versions, hardware, caches and a self-test."),
}


_REFUSALS = (ValueError, TypeError, OSError, MemoryError, BackendUnavailable, ImportError)


def _usage() -> str:
    commands = "\n".join(f"  {name:9} {entry[2]}" for name, entry in _COMMANDS.items())
    return (
        "usage: gpubp [--version] [--help] COMMAND ...\n\n"
        "Backpropagation for multilayer perceptrons.\n\n"
        f"{commands}\n\n"
        "'gpubp COMMAND --help' lists the options; 'gpubp train' trains at once.\n"
    )


def _run(argv: Sequence[str]) -> int:
    if not argv or argv[0] in ("-h", "--help"):
        print(_usage(), end="")
        return 0
    if argv[0] == "--version":
        print(f"gpubp {__version__}")
        return 0
    if argv[0] not in _COMMANDS:
        raise unknown("command", argv[0], _COMMANDS)
    make, module, summary = _COMMANDS[argv[0]]
    parser = make(summary)
    try:
        args = parser.parse_strictly(argv[1:])
    except SystemExit:  # --help, printed by argparse
        return 0
    args.default = parser.get_default
    with uninterrupted():  # NumPy half imported is no state to be left in
        command = getattr(import_module(f".{module}", __package__), argv[0])
    return int(command(args))


def _sentence(error: BaseException) -> str:
    text = " ".join(str(error).split())
    if isinstance(error, KeyboardInterrupt):
        return text or "interrupted"
    if isinstance(error, MemoryError):
        return f"not enough memory: {text}" if text else "not enough memory"
    if isinstance(error, OSError) and error.strerror and error.args[:1] == (error.errno,):
        where = f"{error.filename}: " if error.filename is not None else ""
        return f"{where}{error.strerror[:1].lower()}{error.strerror[1:]}"
    return text or type(error).__name__


def _attempt(argv: Sequence[str]) -> int:
    try:
        code = _run(argv)
        print(end="", flush=True)  # here, where a failure can still be told
        return code
    except BrokenPipeError:
        raise
    except (*_REFUSALS, DivergenceError, KeyboardInterrupt) as error:
        if os.environ.get("GPUBP_DEBUG") == "1":
            raise
        complain(_sentence(error))
        if isinstance(error, KeyboardInterrupt):
            return 128 + getattr(error, "number", 2)
        return 3 if isinstance(error, DivergenceError) else 2


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code (see the module's docstring)."""
    try:
        return _spoken(argv)
    except KeyboardInterrupt:  # just before the command begins, or while it says its last
        if os.environ.get("GPUBP_DEBUG") == "1":
            raise
        complain("interrupted")
        return 130


def _spoken(argv: Sequence[str] | None) -> int:
    """The exit code of the command, with what it says on streams that may fail."""
    with speaking():
        try:
            code = _attempt(sys.argv[1:] if argv is None else argv)
        except BrokenPipeError:
            code = 141
        if (why := unsaid()) is not None:
            done = "the command did its work" if code == 0 else "the command failed"
            complain(f"{done}, but its output could not be written: {_sentence(why)}")
            code = code or 2
        try:
            print(end="", flush=True)
        except OSError:
            discard_output()
        return code
