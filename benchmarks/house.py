"""The size of the house: ``python -m benchmarks.house``.

It counts the files, statements, names and arrows of the package, the files that one event enters,
and the words of its docstrings. Nothing is timed, so the figures are the same on every machine.
"""

from __future__ import annotations

import ast
import re
import statistics
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

PACKAGE = Path(__file__).parents[1] / "mltrigger"
NOT_COUNTED = {"__init__", "__main__", "_version"}
"""Names at the top level that every package has."""
LONG_WORDS = 20
RIDDLE = re.compile(r"\b(what|whoever|whatever)\b", re.IGNORECASE)


def sources(package: Path = PACKAGE) -> dict[str, ast.Module]:
    """Return the modules of *package*, parsed, under their dotted names."""
    return {
        ".".join(path.relative_to(package).with_suffix("").parts): ast.parse(path.read_text())
        for path in sorted(package.rglob("*.py"))
    }


def statements(tree: ast.Module) -> int:
    """Count statements without docstrings."""
    return sum(isinstance(n, ast.stmt) and not _is_text(n) for n in ast.walk(tree))


def _is_text(node: ast.stmt) -> bool:
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )


def sentences(tree: ast.Module) -> Iterator[str]:
    """Yield the sentences of the docstrings of *tree*, without its examples."""
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    for node in ast.walk(tree):
        text = ast.get_docstring(node) if isinstance(node, kinds) else None
        for part in _paragraphs(text or ""):
            for sentence in re.split(r"(?<=[.!?])\s+(?=[A-Z`\"(*])", " ".join(part.split())):
                if re.search(r"\w", sentence):
                    yield sentence


def _paragraphs(text: str) -> Iterator[str]:
    """Yield the prose of a docstring: no code, no headings, no names and types of parameters."""
    for part in re.split(r"\n\s*\n", re.sub(r"(?m)^.+\n-{3,}$", "", text)):
        if part.startswith("    ") or ">>>" in part:
            continue
        # The lines of a numpy section that are followed by an indented one name a parameter.
        yield from re.split(r"(?m)^\S.*\n(?=    )", part)


def arrows(modules: dict[str, ast.Module]) -> set[tuple[str, str]]:
    """Return which room at the top level imports which, at module level or inside functions."""
    found = set()
    for name, tree in modules.items():
        room = name.partition(".")[0]
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("mltrigger."):
                found.add((room, (node.module or "").split(".")[1]))
    return {(one, other) for one, other in found if one != other and one not in NOT_COUNTED}


def entered(asked: bool = False) -> set[str]:
    """Return the files whose functions run for one event: published, invoked, recorded.

    With *asked* its invocations are read as well.
    """
    import mltrigger as mt

    files: set[str] = set()
    inside = threading.Event()

    def profile(frame: FrameType, event: str, _: object) -> None:
        file = frame.f_code.co_filename
        if event == "call" and inside.is_set() and file.startswith(str(PACKAGE)):
            files.add(Path(file).relative_to(PACKAGE).as_posix())

    threading.setprofile(profile)
    sys.setprofile(profile)
    try:
        with mt.connect("memory://") as bus:
            bus.subscribe("documents", len, name="length", version="1.0.0")
            bus.fire("documents", [[1, 2]], progress=False)
            inside.set()
            bus.publish("documents", [1, 2, 3])
            bus.wait(progress=False)
            if asked:
                bus.invocations()
            inside.clear()
    finally:
        sys.setprofile(None)
        threading.setprofile(None)  # type: ignore[arg-type]  # the standard library takes None
    return files


def main() -> None:
    """Print the figures."""
    modules = sources()
    lengths = [len(path.read_text().splitlines()) for path in PACKAGE.rglob("*.py")]
    words = [sentence for tree in modules.values() for sentence in sentences(tree)]
    counts = [len(sentence.split()) for sentence in words]
    rooms = {name.partition(".")[0] for name in modules} - NOT_COUNTED
    share = {
        "with a semicolon": sum(";" in s for s in words) / len(words),
        "with a riddle (what, whoever, whatever)": sum(bool(RIDDLE.search(s)) for s in words)
        / len(words),
        f"of more than {LONG_WORDS} words": sum(n > LONG_WORDS for n in counts) / len(words),
    }
    print(f"files                                    {len(modules):8,}")
    print(f"files above 400 lines                    {sum(n > 400 for n in lengths):8,}")
    print(f"files above 250 lines                    {sum(n > 250 for n in lengths):8,}")
    print(f"statements                               {sum(map(statements, modules.values())):8,}")
    print(f"names at the top level                   {len(rooms):8,}")
    print(f"arrows between them                      {len(arrows(modules)):8,}")
    print(f"files that one event enters              {len(entered()):8,}")
    print(f"sentences in docstrings                  {len(words):8,}")
    print(f"words a sentence, median                 {statistics.median(counts):8g}")
    for label, value in share.items():
        print(f"  {label:39}{value:8.1%}")


if __name__ == "__main__":
    main()
