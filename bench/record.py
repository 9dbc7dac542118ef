"""bench/results.csv: one row a measurement, with what is needed to judge it; the tables from it.

Every script in this folder answers one question, checks before it times, and appends its rows
here. ``python bench/record.py`` writes the tables of the pages anew from the newest rows, after
adding those of the files that it is given, recorded on another machine. With
GPUBP_RESULTS naming another file, rows and plots go there and beside it, and the tables are printed
instead: trying a script never touches what is recorded.
"""

from __future__ import annotations

import csv
import datetime
import importlib.metadata
import math
import os
import platform
import re
import subprocess
import sys
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGES = (
    ROOT / "README.md",
    *(ROOT / "docs" / f"{page}.md" for page in ("speed", "capacity", "sklearn")),
)
_ELSEWHERE = os.environ.get("GPUBP_RESULTS")
RESULTS = Path(_ELSEWHERE) if _ELSEWHERE else ROOT / "bench" / "results.csv"


@dataclass(frozen=True)
class Row:
    """One measurement of ``subject`` on ``case``: the median of ``runs``, lowest and highest."""

    script: str
    case: str
    subject: str
    metric: str
    unit: str
    median: float
    low: float
    high: float
    runs: int
    note: str = ""


_WHERE = ("date", "commit", "device", "versions")
_COLUMNS = (*_WHERE, *(field.name for field in fields(Row)))


def device() -> str:
    """The processor and its number of cores."""
    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        found = re.search(r"^model name\s*:\s*(.+)$", info.read_text(), re.MULTILINE)
        name = found.group(1) if found else name
    return f"{' '.join(name.split())}, {os.cpu_count()} cores"


def thread_environment(threads: int) -> dict[str, str]:
    """The environment in which every library here computes with so many threads.

    For a process of its own: thread pools are set up once.
    """
    names = ("OMP", "OPENBLAS", "MKL", "NUMBA", "GPUBP")
    environment = os.environ | {f"{name}_NUM_THREADS": str(threads) for name in names}
    if threads == 1:
        environment["XLA_FLAGS"] = (
            "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
        )
    return environment


def thread_counts() -> list[int]:
    """One thread, and as many as there are cores."""
    return sorted({1, os.cpu_count() or 1})


def threads_name(threads: int) -> str:
    return "1 thread" if threads == 1 else f"{threads} threads"


def versions(packages: Iterable[str] = ("numpy", "numba", "scipy")) -> str:
    """Python and the packages that took part, those that are installed."""
    parts = [f"python {platform.python_version()}"]
    for package in packages:
        try:
            parts.append(f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            parts.append(f"{package} not installed")
    return ", ".join(parts)


def commit() -> str:
    """The commit measured, marked where the working tree differs from it; of a copy without git,
    what GPUBP_COMMIT says."""
    if not (ROOT / ".git").exists():
        return os.environ.get("GPUBP_COMMIT", "unknown")

    def git(*words: str) -> str:
        return subprocess.run(
            ["git", *words], cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout.strip()

    changed = git("status", "--porcelain", "--untracked-files=no", "--", "gpubp", "kernels")
    return git("rev-parse", "--short", "HEAD") + ("+changes" if changed else "")


def append(
    rows: Iterable[Row],
    packages: Iterable[str] = ("numpy", "numba", "scipy"),
    where: str | None = None,
) -> None:
    """Add the rows to results.csv, stamped with date, commit, device and versions."""
    stamp = {
        "date": datetime.date.today().isoformat(),
        "commit": commit(),
        "device": where or device(),
        "versions": versions(packages),
    }
    new = not RESULTS.exists()
    with RESULTS.open("a", newline="") as file:
        writer = csv.DictWriter(file, _COLUMNS)
        if new:
            writer.writeheader()
        for row in rows:
            values = asdict(row)
            for name in ("median", "low", "high"):
                values[name] = f"{values[name]:.6g}"
            writer.writerow(stamp | values)


def adopt(path: Path) -> int:
    """Add the rows of another results.csv, stamped as they are; those that are here already count
    for nothing. How many came."""
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        if tuple(reader.fieldnames or ()) != _COLUMNS:
            raise ValueError(f"{path} has the columns {reader.fieldnames}, not {list(_COLUMNS)}")
        given = list(reader)
    new = not RESULTS.exists()
    known: list[dict[str, str]] = []
    if not new:
        with RESULTS.open(newline="", encoding="utf-8") as file:
            known = list(csv.DictReader(file))
    rows = [row for row in given if row not in known]
    with RESULTS.open("a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, _COLUMNS)
        if new:
            writer.writeheader()
        writer.writerows(rows)
    return len(rows)


def newest(script: str) -> list[dict[str, str]]:
    """The last row of each (case, subject, metric) that ``script`` wrote, in order of writing."""
    rows: dict[tuple[str, str, str], dict[str, str]] = {}
    if RESULTS.exists():
        with RESULTS.open(newline="") as file:
            for row in csv.DictReader(file):
                if row["script"] == script:
                    key = (row["case"], row["subject"], row["metric"])
                    rows.pop(key, None)
                    rows[key] = row
    return list(rows.values())


def _where(rows: list[dict[str, str]]) -> str:
    seen = dict.fromkeys(tuple(row[name] for name in _WHERE) for row in rows)
    return "\n".join(f"{d}, commit {c}, {m}; {v}." for d, c, m, v in seen)


def accuracy_table() -> str:
    """What the book's networks reach on MNIST, beside the published figure."""
    rows = newest("accuracy")
    lines = [
        "| network and training | published | gpubp, best epoch, best of runs | each run |",
        "|---|---|---|---|",
    ]
    for row in rows:
        published, _, runs = row["note"].partition("; ")
        lines.append(f"| {row['case']} | {published} | {float(row['high']):.2f}% | {runs} |")
    return "\n".join([*lines, "", _where(rows)])


def _three_digits(value: float) -> str:
    """``value`` to three significant digits, and whole from 100 on."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _grid(rows: list[dict[str, str]]) -> tuple[dict[str, dict[str, dict[str, str]]], list[str]]:
    """(case -> subject -> row, the subjects in order of writing)."""
    cases: dict[str, dict[str, dict[str, str]]] = {}
    for row in rows:
        cases.setdefault(row["case"], {})[row["subject"]] = row
    return cases, list(dict.fromkeys(row["subject"] for row in rows))


def kernels_table() -> str:
    """Each kernel's rate beside the plain NumPy expression's, and its share of the ceiling."""
    rows = newest("kernels")
    cases, subjects = _grid(rows)
    lines = [
        f"| kernel | {' | '.join(subjects)} | error, of NumPy's |",
        f"|---|{'---|' * len(subjects)}---|",
    ]
    for case, found in cases.items():
        cells = []
        for subject in subjects:
            if subject not in found:
                cells.append("")
                continue
            rate = float(found[subject]["median"])
            share = rate / float(found[f"ceiling, {subject.partition(', ')[2]}"]["median"])
            percent = "" if subject.startswith("ceiling") else f" ({100 * share:.0f}%)"
            cells.append(f"{_three_digits(rate)} {found[subject]['unit']}{percent}")
        note = next(row["note"] for row in found.values() if row["subject"].startswith("gpubp"))
        lines.append(f"| {case} | {' | '.join(cells)} | {note} |")
    return "\n".join([*lines, "", _where(rows)])


def scaling_table() -> str:
    """Time a step and throughput over batch size and over width, and how far off the line."""
    rows = newest("scaling")
    cases, subjects = _grid([row for row in rows if row["metric"] == "step"])
    heads = [f"{subject}: us a step | examples/s | off the line" for subject in subjects]
    lines = [
        f"| | {' | '.join(heads)} | what grows |",
        f"|---|{'---|---|---|' * len(subjects)}---|",
    ]
    for case, found in cases.items():
        cells, where = [], ""
        for subject in subjects:
            if subject not in found:
                cells += ["", "", ""]
                continue
            off, batch, where = found[subject]["note"].split("; ", 2)
            us = float(found[subject]["median"])
            rate = int(batch.removeprefix("batch ")) / us * 1e6
            cells += [_three_digits(us), f"{rate:,.0f}", off]
        lines.append(f"| {case} | {' | '.join(cells)} | {where} |")
    fits = [row for row in rows if row["metric"] == "line"]
    fitted = [f"* {row['case']}, {row['subject']}: {row['note']}." for row in fits]
    return "\n".join([*lines, "", *fitted, "", _where(rows)])


def time_to_accuracy_table() -> str:
    """Seconds of the whole process to the accuracy, fastest first."""
    rows = newest("time_to_accuracy")
    cases, _ = _grid(rows)
    lines = ["| to | with | seconds | lowest to highest | in |", "|---|---|---|---|---|"]
    for case, found in cases.items():
        for row in sorted(found.values(), key=lambda row: float(row["median"])):
            median, low, high = (float(row[name]) for name in ("median", "low", "high"))
            lines.append(
                f"| {case} | {row['subject']} | {median:.2f} | {low:.2f} to {high:.2f} "
                f"| {row['note']} |"
            )
    return "\n".join([*lines, "", _where(rows)])


def _side_by_side(
    rows: list[dict[str, str]], corner: str, unit: str, ours: str,
    cell: Callable[[dict[str, str], float], str],
) -> list[str]:  # fmt: skip
    """A line a subject, a column a case: cell(row, how many times our median its median is)."""
    cases, subjects = _grid(rows)
    lines = [
        f"| {corner} | {' | '.join(f'{case}, {unit}' for case in cases)} |",
        f"|---|{'---|' * len(cases)}",
    ]
    for subject in subjects:
        cells = []
        for found in cases.values():
            if subject not in found:
                cells.append("")
                continue
            own = float(found[ours]["median"]) if ours in found else math.nan
            cells.append(cell(found[subject], float(found[subject]["median"]) / own))
        lines.append(f"| {subject} | {' | '.join(cells)} |")
    return lines


def _times(row: dict[str, str], ours: str, times: float) -> str:
    """In brackets how many times ours, where there are two to compare."""
    return "" if row["subject"] == ours or math.isnan(times) else f" ({times:.1f}x)"


def epoch_table() -> str:
    """Microseconds a training step by each library, and how many times gpubp's that is."""
    rows, ours = newest("epoch"), "gpubp cpu"

    def cell(row: dict[str, str], times: float) -> str:
        us, threads = _three_digits(float(row["median"])), row["note"].split()[0]
        return f"{us} on {threads}{_times(row, ours, times)}"

    data = sorted({row["note"].split("; ")[1] for row in rows})
    # Plain cases first, each kind from small to large.
    rows.sort(key=lambda row: (row["case"][1:], "SML".find(row["case"][0])))
    lines = _side_by_side(rows, "library", "us a step", ours, cell)
    return "\n".join([*lines, "", f"Data: {', '.join(data)}. {_where(rows)}"])


def estimators_table() -> str:
    """Milliseconds an epoch of the same fit takes by gpubp's estimator and by scikit-learn's."""
    rows, ours = newest("estimators"), "gpubp.sklearn"

    def cell(row: dict[str, str], times: float) -> str:
        return f"{_three_digits(float(row['median']))}{_times(row, ours, times)}"

    notes = ", ".join(sorted({row["note"] for row in rows}))
    lines = _side_by_side(rows, "MLPClassifier", "ms an epoch", ours, cell)
    return "\n".join([*lines, "", f"float64, {notes}. {_where(rows)}"])


def fleet_table() -> str:
    """Seconds an epoch of all networks takes side by side and one after another."""
    rows, ours = newest("fleet"), "Fleet"

    def cell(row: dict[str, str], times: float) -> str:
        seconds, low, high = (float(row[name]) for name in ("median", "low", "high"))
        text = f"{seconds:.2f} ({low:.2f} to {high:.2f})"
        return text if row["subject"] == ours else f"{text}, {times:.2f}x"

    notes = sorted({row["note"] for row in rows})
    lines = _side_by_side(rows, "", "s an epoch", ours, cell)
    return "\n".join([*lines, "", f"{', '.join(notes)}. {_where(rows)}"])


def gpu_table() -> str:
    """Microseconds a training step on a GPU, and how many times gpubp's that is."""
    rows, ours = newest("gpu"), "gpubp cuda"
    if not rows:
        return "Nothing has been timed on a GPU yet: `python bench/gpu.py` does it."

    def cell(row: dict[str, str], times: float) -> str:
        return f"{_three_digits(float(row['median']))}{_times(row, ours, times)}"

    data = sorted({row["note"] for row in rows})
    rows.sort(key=lambda row: "SML".find(row["case"]))
    lines = _side_by_side(rows, "library", "us a step", ours, cell)
    processes = [
        f"* To {row['case']}, whole process: {float(row['median']):.2f} s, {row['note']}."
        for row in newest("gpu_time")
    ]
    lines += ["", *processes] if processes else []
    return "\n".join([*lines, "", f"float32. Data: {', '.join(data)}. {_where(rows)}"])


def cores_table() -> str:
    """Microseconds a step of the CPU engines on more and more threads, and how many times faster
    than on one."""
    rows, one = newest("cores"), "1 threads"
    if not rows:
        return (
            "Not measured on more than two cores yet: `python bench/gpu.py --only cores` does it."
        )

    def cell(row: dict[str, str], times: float) -> str:
        return f"{_three_digits(float(row['median']))} ({1 / times:.2f}x)"

    lines = _side_by_side(rows, "", "us a step", one, cell)
    return "\n".join([*lines, "", _where(rows)])


def capacity_table() -> str:
    """How networks are trained on a GPU: the way, what it takes, predicted and measured times."""
    measured = {(row["case"], row["subject"]): row["median"] for row in newest("gpu")}
    measured |= {(row["case"], row["subject"]): row["median"] for row in newest("gpu_ways")}
    lines = [
        "| network | way | blocks | shared memory of a block | registers of a thread "
        "| predicted us a step | measured |",
        "|---|---|---|---|---|---|---|",
    ]
    rows = newest("capacity")
    for row in rows:
        blocks, shared, registers = row["note"].split("; ")
        case, _, precision = row["case"].partition(", ")
        at = (row["case"], f"choice: {row['subject']}")
        if precision in ("tf32", "bf16"):
            at = (case, f"gpubp cuda, {precision}")
        us = measured.get(at, measured.get((row["case"], "gpubp cuda"), ""))
        lines.append(
            f"| {row['case']} | {row['subject']} | {blocks} | {int(shared):,} | {registers} "
            f"| {_three_digits(float(row['median']))} | {us and _three_digits(float(us))} |"
        )
    return "\n".join([*lines, "", _where(rows)])


TABLES: dict[str, Callable[[], str]] = {
    "accuracy": accuracy_table,
    "capacity": capacity_table,
    "cores": cores_table,
    "epoch": epoch_table,
    "estimators": estimators_table,
    "fleet": fleet_table,
    "gpu": gpu_table,
    "kernels": kernels_table,
    "scaling": scaling_table,
    "time_to_accuracy": time_to_accuracy_table,
}


def write_readme(*pages: Path) -> None:
    """Replace what stands between ``<!-- table NAME -->`` and ``<!-- end NAME -->`` in the pages.

    Without pages in README and the page on speed. Rows that are kept elsewhere do not belong there:
    their tables are printed.
    """
    if _ELSEWHERE and not pages:
        print(*(f"\n{name}\n{table()}" for name, table in TABLES.items() if newest(name)), sep="\n")
        return
    for path in pages or PAGES:
        text = path.read_text()
        for name, table in TABLES.items():
            begin, end = f"<!-- table {name} -->", f"<!-- end {name} -->"
            if begin in text:
                before, _, rest = text.partition(begin)
                if end not in rest:
                    raise ValueError(f"{path.name} has {begin!r} without {end!r} after it: add it")
                after = rest.partition(end)[2]
                text = f"{before}{begin}\n{table()}\n{end}{after}"
                print(f"wrote the table {name!r} in {path.name}")
        path.write_text(text)


if __name__ == "__main__":
    for name in sys.argv[1:]:
        print(f"{adopt(Path(name))} rows from {name}")
    write_readme()
