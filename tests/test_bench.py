"""What benchmarks record: rows that can be judged, and tables in README made of nothing else."""

from __future__ import annotations

import csv
import importlib.util
import math
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

BENCH = Path(__file__).resolve().parent.parent / "bench"
COLUMNS = (
    "date", "commit", "device", "versions",
    "script", "case", "subject", "metric", "unit", "median", "low", "high", "runs", "note",
)  # fmt: skip


@pytest.fixture
def record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """bench/record.py, writing to a temporary results.csv."""
    monkeypatch.delenv("GPUBP_RESULTS", raising=False)
    spec = importlib.util.spec_from_file_location("bench_record", BENCH / "record.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "bench_record", module)  # dataclasses look it up
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "RESULTS", tmp_path / "results.csv")
    monkeypatch.setattr(module, "commit", lambda: "0123abc")  # an sdist has no git
    return module


def fake_rows(record: ModuleType) -> list[object]:
    """A row or more for every table."""
    row = record.Row
    return [
        row("gpu", "S", "gpubp cuda", "step", "us", 10, 9, 11, 3, "MNIST"),
        row("gpu", "S", "PyTorch eager", "step", "us", 300, 290, 310, 3, "MNIST"),
        row("gpu_ways", "M", "choice: cooperative", "step", "us", 6.2, 6, 7, 3,
            "predicted 6; MNIST"),
        row("gpu_time", "95% MNIST", "gpubp cuda", "process", "s", 3.5, 3.5, 3.5, 1, "3 epochs"),
        row("cores", "M", "1 threads", "step", "us", 120, 110, 130, 3, "MNIST"),
        row("cores", "M", "16 threads", "step", "us", 20, 19, 21, 3, "MNIST"),
        row("capacity", "M", "cooperative", "predicted step", "us", 6.06, 6.06, 6.06, 1,
            "132 x 256; 30784; 9"),
        row("fleet", "64 x S", "Fleet", "epoch", "s", 2, 1.9, 2.2, 5, "2 threads at hand; MNIST"),
        row("fleet", "64 x S", "one after another", "epoch", "s", 3, 2.9, 3.2, 5,
            "2 threads at hand; MNIST"),
        row("estimators", "digits", "gpubp.sklearn", "epoch", "ms", 4, 3.9, 4.2, 3,
            "2 threads at hand"),
        row("estimators", "digits", "scikit-learn", "epoch", "ms", 6, 5.9, 6.2, 3,
            "2 threads at hand"),
        row("capacity", "S", "resident", "predicted step", "us", 1.5, 1.5, 1.5, 1,
            "8 x 9; 51344; 9"),
        row("accuracy", "a net", "gpubp cpu", "best", "%", 95.5, 95.25, 95.75, 3, "95%; 1, 2, 3"),
        row("kernels", "outer", "gpubp cpu, 1 thread", "rate", "GFLOP/s", 75, 70, 80, 5, "1.0 x"),
        row("kernels", "outer", "ceiling, 1 thread", "rate", "GFLOP/s", 150, 140, 160, 5, "1.0 x"),
        row("scaling", "batch size 8", "1 thread", "step", "us", 40, 30, 50, 5,
            "+30%; batch 8; 46% of inputs used"),
        row("scaling", "batch size n", "1 thread", "line", "us", 4, 4, 4, 5, "4.0 us + 5 us n"),
        row("time_to_accuracy", "95%", "slow", "process", "s", 20.5, 20, 21, 3, "3 epochs"),
        row("time_to_accuracy", "95%", "quick", "process", "s", 2.25, 2, 3, 3, "3 epochs"),
    ]  # fmt: skip


def test_tables_are_made_of_the_rows(record: ModuleType, tmp_path: Path) -> None:
    record.append(fake_rows(record))
    readme = tmp_path / "README.md"
    marks = [f"<!-- table {name} -->\nold\n<!-- end {name} -->\n" for name in record.TABLES]
    readme.write_text("before\n" + "between\n".join(marks) + "after\n")
    record.write_readme(readme)
    text = readme.read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert text.count("between\n") == len(marks) - 1
    assert "old" not in text
    assert "75 GFLOP/s (50%)" in text
    assert "| 150 GFLOP/s |" in text
    assert "| batch size 8 | 40 | 200,000 | +30% | 46% of inputs used |" in text
    assert "4.0 us + 5 us n" in text
    assert text.index("| quick | 2.25 |") < text.index("| slow | 20.50 |")
    assert "95.75%" in text
    assert "| PyTorch eager | 300 (30.0x) |" in text
    assert "| S | resident | 8 x 9 | 51,344 | 9 | 1.5 | 10 |" in text
    assert "| M | cooperative | 132 x 256 | 30,784 | 9 | 6.06 | 6.2 |" in text
    assert "| 16 threads | 20 (6.00x) |" in text
    assert "* To 95% MNIST, whole process: 3.50 s, 3 epochs." in text
    assert "| Fleet | 2.00 (1.90 to 2.20) |" in text
    assert "| scikit-learn | 6 (1.5x) |" in text
    assert "| one after another | 3.00 (2.90 to 3.20), 1.50x |" in text
    assert "commit 0123abc" in text
    record.write_readme(readme)
    assert readme.read_text() == text


def test_columns_of_a_table_agree(record: ModuleType) -> None:
    epoch = [
        record.Row("epoch", "S", subject, "step", "us", us, us, us, 3, "2 threads; MNIST")
        for subject, us in (("gpubp cpu", 10.0), ("NumPy", 45.0))
    ]
    record.append([*fake_rows(record), *epoch])
    assert "| NumPy | 45 on 2 (4.5x) |" in record.epoch_table()
    for name, table in record.TABLES.items():
        widths = {line.count("|") for line in table().splitlines() if line.startswith("|")}
        assert len(widths) == 1, name


def test_newest_row_counts(record: ModuleType) -> None:
    for median in (1.0, 2.0):
        row = record.Row("kernels", "c", "NumPy, 1 thread", "rate", "GB/s", median, 1, 2, 5)
        record.append([row])
    (found,) = record.newest("kernels")
    assert float(found["median"]) == 2.0


def test_readme_without_marks_is_left_alone(record: ModuleType, tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text("nothing to fill in\n")
    record.write_readme(readme)
    assert readme.read_text() == "nothing to fill in\n"


def test_lost_end_mark_loses_no_text(record: ModuleType, tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text("<!-- table kernels -->\nthe rest of the file\n")
    with pytest.raises(ValueError, match="add it"):
        record.write_readme(readme)
    assert "the rest of the file" in readme.read_text()


def test_rows_of_another_machine_come_in_once(record: ModuleType, tmp_path: Path) -> None:
    record.append(fake_rows(record)[:2])
    elsewhere = tmp_path / "elsewhere.csv"
    record.RESULTS.rename(elsewhere)
    record.append(fake_rows(record)[2:4])
    assert record.adopt(elsewhere) == 2
    assert record.adopt(elsewhere) == 0
    assert [row["median"] for row in record.newest("gpu")] == ["10", "300"]
    assert len(record.newest("gpu_ways")) == 1
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match="has the columns"):
        record.adopt(tmp_path / "other.csv")


def test_recorded_results_can_be_judged() -> None:
    path = BENCH / "results.csv"
    if not path.exists():
        pytest.skip("nothing is recorded: run the scripts in bench/")
    with path.open(newline="") as file:
        reader = csv.DictReader(file)
        assert tuple(reader.fieldnames or ()) == COLUMNS
        rows = list(reader)
    for line, row in enumerate(rows, start=2):
        low, median, high = (float(row[name]) for name in ("low", "median", "high"))
        assert all(math.isfinite(value) for value in (low, median, high)), f"line {line}"
        assert low <= median <= high, f"line {line}"
        assert int(row["runs"]) >= 1, f"line {line}"
        assert all(row[name] for name in COLUMNS[:9]), f"line {line}"


@pytest.mark.parametrize(
    ("script", "option"),
    [
        ("epoch", "--rounds"),
        ("fleet", "--rounds"),
        ("gpu", "--minutes"),
        ("kernels", "--rounds"),
        ("scaling", "--rounds"),
        ("time_to_accuracy", "--rounds"),
        ("fit_capacity", "results"),
    ],
)
def test_script_says_what_it_answers(script: str, option: str) -> None:
    done = subprocess.run(
        [sys.executable, str(BENCH / f"{script}.py"), "--help"],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert option in done.stdout
    assert "?" in done.stdout
