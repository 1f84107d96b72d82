"""What a notebook's first cells cost: the import and the first subscribe."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import mltrigger as mt
from benchmarks.harness import Options, scratch
from benchmarks.report import Report, Table, Target

_FIRST_CELL = """
import time
started = time.perf_counter()
import mltrigger as mt

@mt.model("ocr", version="1.0.0")
def read_page(document):
    return {"text": document}

sub = mt.subscribe("documents", read_page)
subscribed = time.perf_counter()
run = mt.fire("documents", ["page"], progress=False)
fired = time.perf_counter()
frame = run.results()
print(subscribed - started, fired - subscribed, time.perf_counter() - fired)
"""


def run(options: Options) -> Report:
    """Measure processes from outside."""
    report = Report("start", "import, first subscribe")
    with scratch() as folder:
        python = _Python(folder)
        _import(report, python, options.size(10, 4))
        _first_cell(report, python, folder, options.size(7, 2))
    return report


class _Python:
    """Fresh interpreters that find mltrigger and keep their bytecode, as an installed package does."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        source = str(Path(mt.__file__).resolve().parents[1])
        known = {
            name: value
            for name, value in os.environ.items()
            if name not in ("PYTHONDONTWRITEBYTECODE", "MLTRIGGER_URL")
        }
        path = os.pathsep.join(p for p in (source, known.get("PYTHONPATH")) if p)
        self._environment = {
            **known,
            "PYTHONPATH": path,
            "PYTHONPYCACHEPREFIX": str(folder / "bytecode"),
        }

    def run(self, *arguments: str, folder: Path | None = None) -> tuple[float, str]:
        """Run Python; return the seconds it took, and what it printed."""
        started = time.perf_counter()
        done = subprocess.run(
            [sys.executable, *arguments],
            cwd=folder or self._folder,
            env=self._environment,
            capture_output=True,
            text=True,
        )
        if done.returncode:
            raise RuntimeError(f"python failed: {done.stderr.strip()[-2000:]}")
        return time.perf_counter() - started, done.stdout


def _import(report: Report, python: _Python, times: int) -> None:
    """Time ``import mltrigger`` against an interpreter that imports nothing, in turn."""
    programs = {"bare Python": "pass", "import mltrigger": "import mltrigger"}
    taken: dict[str, list[float]] = {name: [] for name in programs}
    for n in range(times + 1):
        for name, program in programs.items():
            seconds, _ = python.run("-c", program)
            if n:  # the first round compiles
                taken[name].append(seconds * 1e3)
    medians = {name: statistics.median(values) for name, values in taken.items()}
    bare = medians["bare Python"]
    rows = [
        (name, f"{min(taken[name]):.0f}", f"{median:.0f}", f"{median - bare:+.0f}")
        for name, median in medians.items()
    ]
    report.tables.append(
        Table(
            f"Fresh processes, milliseconds, {times} each in turn",
            ("program", "best", "median", "over bare"),
            rows,
        )
    )
    over = medians["import mltrigger"] - bare
    report.targets.append(
        Target("import mltrigger over bare Python", "< 50 ms", f"{over:.0f} ms", over < 50)
    )


def _first_cell(report: Report, python: _Python, folder: Path, times: int) -> None:
    """Time the first cells of a notebook, each in a fresh process with a fresh file."""
    script = folder / "cell.py"
    script.write_text(_FIRST_CELL)
    found = []
    for n in range(times + 1):
        place = folder / f"notebook-{n}"
        place.mkdir()
        _, printed = python.run(str(script), folder=place)
        found.append([float(word) for word in printed.split()])
    medians = [statistics.median(values) for values in zip(*found[1:], strict=True)]
    names = ("import and first subscribe", "first fire of one event", "its results()")
    rows = [(name, f"{seconds:.3f}") for name, seconds in zip(names, medians, strict=True)]
    report.tables.append(
        Table(f"Fresh process and fresh file, seconds, median of {times}", ("cell", "s"), rows)
    )
    report.targets.append(
        Target("first subscribe, with the import", "< 1 s", f"{medians[0]:.2f} s", medians[0] < 1)
    )
