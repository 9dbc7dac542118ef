"""bench/results.csv: one row a measurement, with what is needed to judge it; README's tables.

Every script in this folder answers one question, checks before it times, and appends its rows
here. ``python bench/record.py`` writes the tables in README.md anew from the newest rows.
"""

from __future__ import annotations

import csv
import datetime
import importlib.metadata
import os
import platform
import re
import subprocess
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "bench" / "results.csv"


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
    """The commit measured, marked where the working tree differs from it."""

    def git(*words: str) -> str:
        return subprocess.run(
            ["git", *words], cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout.strip()

    changed = git("status", "--porcelain", "--untracked-files=no", "--", "gpubp", "kernels")
    return git("rev-parse", "--short", "HEAD") + ("+changes" if changed else "")


def append(rows: Iterable[Row], packages: Iterable[str] = ("numpy", "numba", "scipy")) -> None:
    """Add the rows to results.csv, stamped with date, commit, device and versions."""
    stamp = {
        "date": datetime.date.today().isoformat(),
        "commit": commit(),
        "device": device(),
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


TABLES: dict[str, Callable[[], str]] = {"accuracy": accuracy_table}


def write_readme(path: Path = ROOT / "README.md") -> None:
    """Replace what stands between ``<!-- table NAME -->`` and ``<!-- end NAME -->``."""
    text = path.read_text()
    for name, table in TABLES.items():
        begin, end = f"<!-- table {name} -->", f"<!-- end {name} -->"
        if begin in text:
            before, _, rest = text.partition(begin)
            after = rest.partition(end)[2]
            text = f"{before}{begin}\n{table()}\n{end}{after}"
    path.write_text(text)


if __name__ == "__main__":
    write_readme()
    print(f"wrote the tables {', '.join(TABLES)} in README.md")
