"""Which constants would have predicted the steps that were measured on a GPU?

    python bench/fit_capacity.py [RESULTS.csv]

``capacity.py`` and ``stepper.py`` of kernels/cuda predict the time of a step from counted work and
a few constants, estimates all of them, and by these predictions the way to train is chosen. This
script takes the newest rows that ``bench/gpu.py`` wrote of each network and way, and finds the
constants whose predictions come closest, by least squares of log(predicted / measured). It prints
old and new constants, each row before and after, and which networks would be trained another way.
It changes nothing: write the new constants into the two files, with the device and the date.

What the rows say nothing of stays as it is: each constant is held to its old value as if by a row
of little weight. No GPU is needed.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np

sys.path.append(str(Path(__file__).resolve().parent.parent / "tests"))
from cuda_on_cpu.cupy_on_cpu import installed
from cuda_on_cpu.device import imagined

import gpubp
from gpubp.activation import ACTIVATIONS
from gpubp.cost import COSTS
from gpubp.plan import Plan

# (module, name, key in a dictionary or None)
CONSTANTS = (
    ("stepper", "_LAUNCH", None), ("stepper", "_BARRIER", None),
    ("stepper", "_PRODUCTS", "float32"), ("stepper", "_PRODUCTS", "tf32"),
    ("stepper", "_PRODUCTS", "bf16"), ("capacity", "CLOCK", None), ("capacity", "_SEND", None),
    ("capacity", "_LATENCY", None),
)  # fmt: skip
_HELD = 0.02  # the weight of an old value beside a row's 1: it decides where the rows do not
_MULTIPROCESSORS = 132


@dataclass(frozen=True)
class Measured:
    """A network's step in one way: in how many blocks for resident, where that was asked for."""

    case: str
    sizes: tuple[int, ...]
    batch: int
    precision: str | None
    way: str
    blocks: int | None
    us: float

    @property
    def plan(self) -> Plan:
        sigma = (ACTIVATIONS["sigmoid"],) * (len(self.sizes) - 1)
        return Plan(self.sizes, sigma, COSTS["quadratic"], self.batch, "float32",
                    precision=self.precision)  # fmt: skip


def measured() -> list[Measured]:
    """What bench/gpu.py measured of gpubp's ways."""
    from gpu_ways import TIMED
    from peers import CASES
    from record import newest

    found = []
    for row in newest("gpu_ways"):
        case, way = TIMED[row["case"]], row["subject"].removeprefix("choice: ")
        kind, _, blocks = way.partition(", ")
        # What the choice took is measured by its own name, too: only resident's blocks are unsaid.
        count = int(blocks.split()[0]) if blocks else None
        found.append(Measured(row["case"], case.sizes, case.batch, None, kind, count,
                              float(row["median"])))  # fmt: skip
    for row in newest("gpu"):
        precision = row["subject"].partition(", ")[2]
        if row["subject"].startswith("gpubp cuda") and precision in ("tf32", "bf16"):
            case = CASES[row["case"]]
            found.append(Measured(f"{row['case']}, {precision}", case.sizes, case.batch, precision,
                                  "graph", None, float(row["median"])))  # fmt: skip
    return found


Values = dict[tuple[str, str, str | None], float]


@contextmanager
def constants(values: Values) -> Iterator[SimpleNamespace]:
    """The two modules, with these constants, on an imagined GPU."""
    with ExitStack() as stack:
        stack.enter_context(installed())
        stack.enter_context(imagined(multiprocessors=_MULTIPROCESSORS))
        gpubp.get_backend("cuda")
        from gpubp.kernels.cuda import capacity, stepper

        modules = SimpleNamespace(capacity=capacity, stepper=stepper)
        stack.enter_context(patch.dict(os.environ))
        os.environ.pop(stepper.VARIABLE, None)
        for (module, name, key), value in values.items():
            at = getattr(modules, module)
            change = patch.object(at, name, value)
            stack.enter_context(patch.dict(getattr(at, name), {key: value}) if key else change)
        yield modules


def old_values() -> Values:
    with constants({}) as modules:
        found = {}
        for module, name, key in CONSTANTS:
            value = getattr(getattr(modules, module), name)
            found[module, name, key] = float(value[key] if key else value)
        return found


def predict(values: Values, rows: Sequence[Measured]) -> Any:
    """Microseconds a step of each row, by these constants."""
    with constants(values) as modules:
        return np.array([_predicted(modules, row) for row in rows])


def _predicted(modules: SimpleNamespace, row: Measured) -> float:
    capacity, stepper = modules.capacity, modules.stepper
    x, y = _examples(row.plan)
    with ExitStack() as stack:
        if row.blocks:
            stack.enter_context(patch.object(capacity, "CLUSTERS", (row.blocks,)))
        if row.way != "resident":  # to search for its shape would take most of the time
            stack.enter_context(patch.object(stepper, "choose_shape", _no_shape))
        return 1e6 * float(stepper.predicted(row.plan, x, y)[0][row.way])


def _no_shape(*arguments: Any) -> Any:
    from gpubp.kernels.cuda.capacity import DoesNotFitError

    raise DoesNotFitError("not asked for")


def _examples(plan: Plan) -> tuple[Any, Any]:
    return np.zeros((1, plan.sizes[0]), np.uint8), np.zeros(1, np.int64)


def choice(values: Values, plan: Plan) -> str:
    """The way that would be chosen by these constants."""
    with constants(values) as modules:
        return str(modules.stepper.choose_way(plan, *_examples(plan)))


def fit(rows: Sequence[Measured], old: Values) -> Values:
    """The constants that come closest to the rows; those of which no row tells stay."""
    from scipy.optimize import least_squares

    names, steps = list(old), np.log([row.us for row in rows])

    def values(logs: Any) -> Values:
        return {name: old[name] * float(np.exp(log)) for name, log in zip(names, logs, strict=True)}

    def residuals(logs: Any) -> Any:
        return np.append(np.log(predict(values(logs), rows)) - steps, _HELD * logs)

    best = None
    # Within a cluster the exchange hides behind the update, or the update behind it: a slope shows
    # of one of them alone, so the search begins on either side.
    for factor in (1.0, 3.0):
        start = np.log([factor if constant == "_LATENCY" else 1.0 for _, constant, _ in names])
        found = least_squares(residuals, start, diff_step=1e-3, loss="soft_l1", f_scale=0.3,
                              max_nfev=30)  # fmt: skip
        best = found if best is None or found.cost < best.cost else best
    assert best is not None
    return values(best.x)


def text(name: tuple[str, str, str | None]) -> str:
    module, constant, key = name
    return f"{module}.{constant}" + (f"[{key!r}]" if key else "")


def report(rows: Sequence[Measured], old: Values, new: Values) -> str:
    """What main prints."""
    from capacity import NETWORKS

    lines = ["constant                          old          new"]
    lines += [f"{text(name):28}{old[name]:12.4g} {new[name]:12.4g}" for name in old]
    lines += ["", "network, way                                     measured     old     new, us"]
    steps, before, after = (
        np.array([row.us for row in rows]),
        predict(old, rows),
        predict(new, rows),
    )
    for row, was, now in zip(rows, before, after, strict=True):
        way = row.way if row.blocks is None else f"{row.way}, {row.blocks} blocks"
        lines.append(f"{f'{row.case}: {way}':46}{row.us:11.2f}{was:8.2f}{now:8.2f}")
    off = [np.exp(np.median(np.abs(np.log(by / steps)))) for by in (before, after)]
    lines += ["", f"off by {off[0]:.2f}x before, {off[1]:.2f}x after (median)"]
    changes = []
    for case, sizes, batch, arithmetic, gpu in NETWORKS:
        if gpu["compute_capability"] != "90" or arithmetic == "float64":
            continue
        precision = None if arithmetic == "float32" else arithmetic
        plan = Measured(case, sizes, batch, precision, "", None, 0).plan
        ways = choice(old, plan), choice(new, plan)
        if ways[0] != ways[1]:
            changes.append(f"{case}: {ways[1]} instead of {ways[0]}")
    return "\n".join([*lines, "", *(changes or ["no network would be trained another way"])])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("results", nargs="?", type=Path, help="rows of another file")
    arguments = parser.parse_args()
    if arguments.results is not None:
        os.environ["GPUBP_RESULTS"] = str(arguments.results.resolve())
    rows = measured()
    if not rows:
        raise SystemExit("No way to train has been timed on a GPU yet: python bench/gpu.py does it")
    old = old_values()
    print(report(rows, old, fit(rows, old)))


if __name__ == "__main__":
    main()
