"""The documentation as a program: the blocks of each page, and how they are run."""

from __future__ import annotations

import linecache
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import mltrigger as mt

ROOT = Path(__file__).parents[2]
PAGES = [
    ROOT / "README.md",
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "docs" / "examples").glob("*.md")),
]
SHELL = ("shell", "bash", "sh")
SHELL_OF_CELLS = "_shell_of_cells"
_BLOCK = re.compile(
    r"(?:^<!-- (?P<mark>[a-z ]+): (?P<said>[^>]+?) -->\n\n?)?^```(?P<language>\w*)\n(?P<code>.*?)^```$",
    re.DOTALL | re.MULTILINE,
)
_MARKS = {"not run", "file", "status"}


class Block(NamedTuple):
    """A fenced block of a page, and its mark: ``<!-- not run: why -->``, ``<!-- file: name -->``
    (it is written there), or ``<!-- status: 1 -->`` (the exit status of a shell).
    """

    name: str
    language: str
    code: str
    mark: str
    said: str

    @property
    def is_run(self) -> bool:
        return self.mark != "not run" and self.language in ("python", "ipython", *SHELL)


def named(page: Path) -> str:
    return str(page.relative_to(ROOT))


def blocks(page: Path) -> list[Block]:
    """Return the blocks of *page*. An unknown mark is an error."""
    text, found = page.read_text("utf-8"), []
    for each in _BLOCK.finditer(text):
        mark = each["mark"] or ""
        assert not mark or mark in _MARKS, f"{named(page)}: {mark!r} is none of {_MARKS}"
        line = text.count("\n", 0, each.start("code")) + 1
        found.append(
            Block(f"{named(page)}:{line}", each["language"], each["code"], mark, each["said"] or "")
        )
    return found


def run(page: Path, addresses: Mapping[str, str]) -> dict[str, Any]:
    """Run the blocks of *page* in the present folder. Return the names that they made.

    *addresses*: the text of an address in the page, and the real one.
    """
    names: dict[str, Any] = {"__name__": "page"}
    for block in blocks(page):
        code = block.code
        for written, real in addresses.items():
            code = code.replace(written, real)
        if block.mark == "file":
            Path(block.said).write_text(code)
        elif block.is_run and block.language == "python":
            _python(block.name, code, names)
        elif block.is_run and block.language == "ipython":
            _cell(block.name, code, names)
        elif block.is_run:
            _shell(block, code)
    return names


def _python(name: str, code: str, names: dict[str, Any]) -> None:
    """Run *code* as a cell of a notebook: its source can be found, as IPython does it."""
    linecache.cache[name] = (len(code), None, code.splitlines(keepends=True), name)
    exec(compile(code, name, "exec", dont_inherit=True), names)


def _cell(name: str, code: str, names: dict[str, Any]) -> None:
    """Run *code* as a cell with magics."""
    from IPython.core.interactiveshell import InteractiveShell

    if SHELL_OF_CELLS not in names:
        names[SHELL_OF_CELLS] = InteractiveShell(user_ns=names)
    done = names[SHELL_OF_CELLS].run_cell(code)
    assert done.success, f"{name}: {done.error_before_exec or done.error_in_exec!r}"


def _shell(block: Block, code: str) -> None:
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", code],
        capture_output=True,
        text=True,
        timeout=120,
        env={
            **os.environ,
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
            "PYTHONPATH": os.pathsep.join([str(ROOT), str(Path.cwd())]),
            "PYTEST_ADDOPTS": "",
        },
        check=False,
    )
    assert done.returncode == int(block.said if block.mark == "status" else 0), (
        f"{block.name}: status {done.returncode}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
    )
    assert "Traceback" not in done.stderr, f"{block.name}: {done.stderr[-3000:]}"


def close(names: Mapping[str, Any]) -> None:
    """Close each bus that a page opened, and end its emulator."""
    mt.close()
    for value in names.values():
        if isinstance(value, mt.EventBus):
            value.close()
    for value in names.values():
        if type(value).__name__ == "AwsEmulator":
            value.close()
