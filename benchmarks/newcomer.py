"""A newcomer's ten minutes: a clone, and ``docs/quickstart.md`` line by line in a notebook's kernel."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.harness import Options, scratch
from benchmarks.report import Report, Table, Target

LIMIT_S = 600.0
ROOT = Path(__file__).parents[1]
_MILESTONES = {
    "A first result": "first result",
    "Repair a dead letter": "first dead letter repaired",
    "Look": "first chart, and the cockpit",
}
_KERNEL = """
import json, sys, time
import nbformat
from nbclient import NotebookClient

notebook = nbformat.v4.new_notebook()
notebook.cells = [nbformat.v4.new_code_cell(code) for code in json.load(sys.stdin)]
client = NotebookClient(notebook, kernel_name="python3", timeout=120)
began_s, said = time.perf_counter(), []
with client.setup_kernel(cwd=sys.argv[1]):
    started_s = time.perf_counter() - began_s
    for n, cell in enumerate(notebook.cells):
        began_s = time.perf_counter()
        client.execute_cell(cell, n)
        shown = {kind: text for output in cell.outputs for kind, text in output.get("data", {}).items()}
        said.append([time.perf_counter() - began_s, sorted(shown), shown.get("text/plain", "")])
print(json.dumps([started_s, said]))
"""


class Cell(NamedTuple):
    """A block of the page: its heading, and its Python."""

    heading: str
    code: str


class Ran(NamedTuple):
    """A cell that ran: its heading, its seconds, the forms of its output, and the plain one."""

    heading: str
    seconds: float
    shown: Sequence[str]
    text: str


def run(options: Options) -> Report:
    """Do it once. A quick run installs nothing, and takes the libraries that are here."""
    report = Report("newcomer", "a newcomer's ten minutes")
    page = (ROOT / "docs" / "quickstart.md").read_text("utf-8")
    steps: list[tuple[str, float]] = []
    with scratch() as folder:
        clone, place = folder / "mltrigger", folder / "notebook"
        place.mkdir()
        python = sys.executable
        if not options.quick:
            steps.append(("clone", _timed("git", "clone", "--quiet", str(ROOT), str(clone))))
            steps.append(("install", _timed("bash", "-ec", _shell(page), folder=clone)))
            python = str(clone / ".venv" / "bin" / "python")
        started_s, ran = _cells(python, place, cells(page))
    _check(ran)
    steps.append(("start of the kernel", started_s))
    for heading in dict.fromkeys(one.heading for one in ran):
        seconds = sum(one.seconds for one in ran if one.heading == heading)
        steps.append((_MILESTONES.get(heading, heading.lower()), seconds))
    _say(report, steps, options)
    return report


def cells(page: str) -> list[Cell]:
    """Return the Python of the *page* in its order."""
    headings = [(found.start(), found[1]) for found in re.finditer(r"(?m)^## (.+)$", page)]
    return [
        Cell([text for at, text in headings if at < found.start()][-1], found[1])
        for found in re.finditer(r"(?ms)^```python\n(.*?)^```$", page)
    ]


def _shell(page: str) -> str:
    found = re.search(r"(?ms)^```shell\n(.*?)^```$", page)
    assert found, "the page installs nothing"
    return found[1]


def _timed(*command: str, folder: Path | None = None) -> float:
    began_s = time.perf_counter()
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{command[0]} failed: {done.stderr.strip()[-2000:]}")
    return time.perf_counter() - began_s


def _cells(python: str, place: Path, given: Sequence[Cell]) -> tuple[float, list[Ran]]:
    """Run cells in a kernel of *python*. An error in one ends the benchmark."""
    done = subprocess.run(
        [python, "-c", _KERNEL, str(place)],
        input=json.dumps([cell.code for cell in given]),
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise RuntimeError(f"a cell failed: {done.stderr.strip()[-2000:]}")
    found: tuple[float, list[Any]] = json.loads(done.stdout.splitlines()[-1])
    return found[0], [Ran(cell.heading, *one) for cell, one in zip(given, found[1], strict=True)]


def _check(ran: Sequence[Ran]) -> None:
    """Each cell must show what it promises."""
    first, *others = (one.text for one in ran)
    assert first.count("succeeded") == 2, first
    assert any("attempts" in text and "KeyError" in text for text in others), others
    assert any("True" in text and "balanced" in text for text in others), others
    assert any("image/png" in one.shown for one in ran), "no chart"
    assert any("Dashboard" in one.text for one in ran), "no cockpit"
    assert all(one.text for one in ran), [one.heading for one in ran if not one.text]


def _say(report: Report, steps: Sequence[tuple[str, float]], options: Options) -> None:
    passed_s, rows = 0.0, []
    for name, seconds in steps:
        passed_s += seconds
        rows.append((name, f"{seconds:.1f}", f"{passed_s:.0f}"))
    report.tables.append(
        Table("A newcomer's steps, seconds", ("step", "s", "since the beginning"), rows)
    )
    if not options.quick:
        report.targets.append(
            Target(
                "install, result, dead letter repaired, chart",
                f"< {LIMIT_S:g} s",
                f"{passed_s:.0f} s",
                passed_s < LIMIT_S,
            )
        )
    report.notes.append(
        "The lines are those of docs/quickstart.md, cell by cell in a kernel. Reading and typing are"
        " not in it." + (" Nothing was installed." if options.quick else "")
    )
