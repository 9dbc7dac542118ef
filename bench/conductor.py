"""Sections with limits, leaving on disk what they found: for a machine that is there for minutes.

A section is a list of parts, most of them child processes, which may fail, crash, hang or print
nothing; none of that ends the run. Whatever happens, and whenever the run is killed, the folder
holds what was found so far:

    results.csv     a row a measurement, as bench/record.py keeps them
    summary.json    every section and part as passed, failed, cut off, left out or not begun
    log.txt         all that the children printed

A part is *cut off* where its time, its section's or the run's was over, or where it was silent for
too long; it is *left out* where what it needs is not installed.
"""

from __future__ import annotations

import datetime
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PASSED, FAILED, CUT_OFF, LEFT_OUT, NOT_BEGUN = (
    "passed", "failed", "cut off", "left out", "not begun",
)  # fmt: skip
_WORST = (FAILED, CUT_OFF, PASSED, LEFT_OUT)  # a section is as its worst part
_MISSING = ("No module named", "is not installed", "ModuleNotFoundError")


@dataclass
class Part:
    """One question and its answer in a line."""

    name: str
    state: str
    text: str


@dataclass
class Section:
    """Some parts and the seconds they have together; ``conduct`` takes the run."""

    name: str
    seconds: float
    conduct: Callable[[Run], None]
    state: str = NOT_BEGUN
    took: float = 0.0
    parts: list[Part] = field(default_factory=list)


class Ended(Exception):
    """A child ended, went silent or had no more time before it said what was asked of it."""

    def __init__(self, state: str, text: str) -> None:
        super().__init__(text)
        self.state = state


class Child:
    """A process that answers in lines of JSON; what else it prints goes to the log alone.

    It has a process group of its own, so that ``kill`` reaches all that it has started.
    """

    def __init__(self, run: Run, name: str, command: Sequence[str], **named: str) -> None:
        self.run, self.name, self.last = run, name, "it said nothing"
        self._lines: queue.Queue[str | None] = queue.Queue()
        self.process = subprocess.Popen(
            list(command), cwd=ROOT, env=os.environ | {"PYTHONUNBUFFERED": "1"} | named,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            errors="replace", start_new_session=True,
        )  # fmt: skip
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as output:
            for line in output:
                self._lines.put(line.rstrip("\n"))
        self._lines.put(None)

    def lines(self, silence: float | None = None) -> Iterator[str]:
        """What it prints, to its end; ``Ended`` where a line takes longer than ``silence`` seconds,
        or the section's time is over."""
        while True:
            left = self.run.left
            wait = left if silence is None else min(silence, left)
            try:
                line = self._lines.get(timeout=max(0.0, wait))
            except queue.Empty:
                self.kill()
                why = "its time was over" if wait == left else f"silent for {wait:.0f} s"
                raise Ended(CUT_OFF, f"{why}, last: {self.last}") from None
            if line is None:
                return
            self.run.log(f"[{self.name}] {line}")
            if line.strip():
                self.last = line.strip()
            yield line

    def answer(self, silence: float | None = None) -> dict[str, Any]:
        """The next line of JSON."""
        for line in self.lines(silence):
            if line.startswith("{"):
                found: dict[str, Any] = json.loads(line)
                return found
        code = self.process.wait()
        missing = any(word in self.last for word in _MISSING)
        raise Ended(LEFT_OUT if missing else FAILED, f"exit {code}, {self.last}")

    def go(self) -> None:
        """What it waits for once it is ready."""
        assert self.process.stdin is not None
        try:
            self.process.stdin.write("\n")
            self.process.stdin.flush()
        except OSError:
            return  # it is dead: answer() says of what

    def kill(self) -> None:
        """End it with all that it has started, and wait for that."""
        with suppress(ProcessLookupError):  # all of them have ended
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self._reader.join(5)  # whoever still holds its output has a process group of his own
        assert self.process.stdin is not None
        with suppress(OSError):  # what was never read goes with it
            self.process.stdin.close()


class Run:
    """The minutes, the folder and what has been found."""

    def __init__(self, folder: Path, minutes: float, about: dict[str, str]) -> None:
        self.folder, self.about = folder, about
        self.until = time.monotonic() + 60 * minutes
        self.section: Section | None = None
        self.sections: list[Section] = []
        self._section_until = self.until
        folder.mkdir(parents=True, exist_ok=True)
        self._log = folder / "log.txt"

    @property
    def left(self) -> float:
        """Seconds of the section, or of the run where that has fewer."""
        return min(self._section_until, self.until) - time.monotonic()

    def log(self, line: str) -> None:
        with self._log.open("a", encoding="utf-8") as file:
            file.write(line + "\n")

    def child(self, name: str, command: Sequence[str], **named: str) -> Child:
        return Child(self, name, command, **named)

    def say(self, name: str, state: str, text: str) -> None:
        """A part's answer: printed, and in the summary on disk before anything else happens."""
        assert self.section is not None
        self.section.parts.append(Part(name, state, text))
        print(f"  {name}: {state}, {text}", flush=True)
        self.log(f"{self.section.name}/{name}: {state}, {text}")
        self.write()

    def attempt(self, name: str, work: Callable[[], str]) -> None:
        """One part: passed with what ``work`` returns, or what ``Ended`` says."""
        try:
            self.say(name, PASSED, work())
        except Ended as ended:
            self.say(name, ended.state, str(ended))
        except Exception as error:  # of any kind: the other parts are to be tried all the same
            self.say(name, FAILED, f"{type(error).__name__}: {error}")

    def conduct(self, sections: Sequence[Section]) -> bool:
        """All sections in order, as far as there is time; whether none failed or was cut off."""
        self.sections = list(sections)
        self.write()
        for section in sections:
            if self.until - time.monotonic() < 1:
                continue
            self.section, started = section, time.monotonic()
            self._section_until = started + section.seconds
            print(f"{section.name} ({min(section.seconds, self.left):.0f} s)", flush=True)
            try:
                section.conduct(self)
            except Ended as ended:
                self.say(section.name, ended.state, str(ended))
            except Exception as error:  # of any kind: the other sections are to be tried
                self.say(section.name, FAILED, f"{type(error).__name__}: {error}")
            states = {part.state for part in section.parts}
            section.state = next((state for state in _WORST if state in states), LEFT_OUT)
            section.took = time.monotonic() - started
            self.write()
        return not {section.state for section in sections} & {FAILED, CUT_OFF}

    def write(self) -> None:
        """summary.json, replaced whole."""
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        sections = [
            {"name": s.name, "state": s.state, "seconds": round(s.took, 1),
             "parts": [asdict(part) for part in s.parts]}
            for s in self.sections
        ]  # fmt: skip
        found = {**self.about, "written": now, "sections": sections}
        temporary = self.folder / ".summary.json"
        temporary.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        os.replace(temporary, self.folder / "summary.json")

    def summary(self) -> str:
        """A line a section, and one for each part that is not as it should be."""
        lines = []
        for section in self.sections:
            passed = sum(part.state == PASSED for part in section.parts)
            lines.append(
                f"{section.name}: {section.state}, {passed} of {len(section.parts)} parts, "
                f"{section.took:.0f} s"
            )
            lines += [
                f"  {part.name}: {part.state}, {part.text}"
                for part in section.parts if part.state not in (PASSED, LEFT_OUT)
            ]  # fmt: skip
        return "\n".join(lines)


def passed_before(folder: Path) -> set[str]:
    """ "section/part" of what passed in the run whose summary lies there."""
    found = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    return {
        f"{section['name']}/{part['name']}"
        for section in found["sections"] for part in section["parts"] if part["state"] == PASSED
    }  # fmt: skip


def python(script: str, *arguments: object) -> list[str]:
    """The command that runs a script of this folder."""
    return [sys.executable, str(Path(__file__).with_name(script)), *map(str, arguments)]
