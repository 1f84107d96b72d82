"""A process that is killed at any statement of the life of a store: the next one finds it whole,
and ends everything exactly once.
"""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from crashing import PHASES

import mltrigger as mt

TESTS = Path(__file__).parents[1]
TEARS = (1, 4_200)
"""Bytes that a torn commit or checkpoint still writes at the end of a file: less than a page, and
more than one.
"""

Order = Callable[..., dict[str, Any]]
Sample = Callable[[list[Any], int], list[Any]]


@pytest.fixture(scope="module")
def order(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Order]:
    """Have a child of a process that has imported everything, and opened nothing, do something."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(Path(mt.__file__).parents[1]),
        "OPENBLAS_NUM_THREADS": "1",
        "TMPDIR": str(tmp_path_factory.mktemp("t")),
    }
    program = [sys.executable, str(TESTS / "helpers" / "crashing.py")]
    process = subprocess.Popen(
        program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    )
    assert process.stdin is not None
    assert process.stdout is not None
    stdin, stdout = process.stdin, process.stdout

    def give(what: str, file: Path, **details: Any) -> dict[str, Any]:
        stdin.write(json.dumps({"order": what, "file": str(file), **details}) + "\n")
        stdin.flush()
        answer: dict[str, Any] = json.loads(stdout.readline())
        assert "error" not in answer, answer["error"]
        return answer

    yield give
    process.communicate()


@pytest.fixture(scope="module")
def before(order: Order, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The file as it is before each phase of an undisturbed life; there is none before the first."""
    folder = tmp_path_factory.mktemp("before")
    life = folder / "life.db"
    files = {"create": folder / "none.db"}
    for phase in PHASES:
        if phase != "create":
            files[phase] = Path(shutil.copy(life, folder / f"{phase}.db"))
        order("live", life, phase=phase)
    return files


@pytest.mark.slow(every=1)
@pytest.mark.parametrize("phase", PHASES)
def test_process_that_is_killed_before_any_statement_leaves_what_another_ends_exactly_once(
    phase: str, order: Order, before: dict[str, Path], tmp_path: Path, sample: Sample
) -> None:
    """Every statement is a point; within a commit and a checkpoint there are more, where the kernel
    kills it in the middle of a write. Every seventh point is tried without ``--slow``.
    """
    statements, expected = undisturbed(phase, order, before[phase], tmp_path)
    points: list[dict[str, Any]] = [{"kill": k} for k in ends_of_runs(statements)]
    points += [
        {"kill": k, "tear": n} for k, sql in enumerate(statements) if writes(sql) for n in TEARS
    ]

    points = sample(points, 7)

    wrong, ends = {}, {}
    for point in points:
        file = copied(before[phase], tmp_path)
        # A torn write that fits into the file as it is kills nobody; then the next statement does,
        # if there is one.
        assert order("live", file, phase=phase, **point)["signal"] in killed(point)
        sql = statements[point["kill"]]
        # Most points leave what another one has left, and then all that follows is the same; a torn
        # checkpoint is a file of its own.
        left = (
            str(point) if "tear" in point and "checkpoint" in sql else "",
            content(file, tmp_path / "look"),
        )
        if left not in ends:
            ends[left] = order("recover", file, phase=phase)["answer"]
        if ends[left] != expected:
            wrong[f"{point} {sql}"] = differences(ends[left], expected)

    assert not wrong, (
        f"{phase}: {len(wrong)} of {len(points)} points: {json.dumps(wrong, indent=1)[:4000]}"
    )
    assert statements
    assert expected["wrong"] == {}
    print(f"{phase}: {len(statements)} statements, {len(points)} points, {len(ends)} ends")


@pytest.mark.slow(every=5)
@pytest.mark.parametrize("seed", range(10))
def test_listener_with_its_threads_that_is_killed_anywhere_is_finished_by_another(
    seed: int, order: Order, tmp_path: Path
) -> None:
    """Publishers, workers and heartbeats are cut off together."""
    file = tmp_path / "bus.db"
    kill = random.Random(seed).randrange(40, 260)

    assert order("storm", file, kill=kill)["signal"] == signal.SIGKILL
    ended = order("finish", file)["answer"]

    # a listener gives back what it has not begun, and of that there is no row
    ended["wrong"].pop("gaps", None)
    assert ended["wrong"] == {}, kill
    pages = [("reader", f"p{n}", str(n)) for n in range(60)]
    final = [tuple(row) for row in ended["found"]["final"]]
    assert sorted(
        (s, e, output)
        for s, e, outcome, _, output in final
        if s == "reader" and outcome == "succeeded"
    ) == sorted(pages)
    assert sorted(
        int(output)
        for s, _, outcome, _, output in final
        if s == "counter" and outcome == "succeeded"
    ) == list(range(60))
    assert len(final) == 120


def undisturbed(
    phase: str, order: Order, base: Path, tmp_path: Path
) -> tuple[list[str], dict[str, Any]]:
    """Return the statements of *phase*, and the ledger at its end and after it was repeated."""
    file = copied(base, tmp_path)
    return order("live", file, phase=phase)["answer"], order("recover", file, phase=phase)["answer"]


def copied(base: Path, tmp_path: Path) -> Path:
    """Return a fresh copy of *base*, of nothing when there is none."""
    file = tmp_path / "bus.db"
    for old in tmp_path.glob("bus.db*"):
        old.unlink()
    return Path(shutil.copy(base, file)) if base.exists() else file


def content(file: Path, folder: Path) -> str:
    """Return the content of all tables as the next process will find it, but for what chance and
    the wall clock have put there.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for name in (file.name, f"{file.name}-wal"):
        if (file.parent / name).exists():
            shutil.copy(file.parent / name, folder / name)
    connection = sqlite3.connect(folder / file.name)
    rows: list[Any] = connection.execute("PRAGMA integrity_check").fetchall()
    for name, sql in connection.execute(
        "SELECT name, sql FROM sqlite_master WHERE type = 'table' ORDER BY name"
    ).fetchall():
        columns = [
            f'"{c[1]}"'
            for c in connection.execute(f"PRAGMA table_info({name})")
            if c[1] not in ("time", "traceparent")
        ]
        rows += [
            sql,
            *connection.execute(
                f"SELECT {', '.join(columns)} FROM {name} ORDER BY 1, 2"
                if len(columns) > 1
                else f"SELECT * FROM {name}"
            ),
        ]
    connection.close()
    return repr(rows)


def ends_of_runs(statements: list[str]) -> list[int]:
    """Return the numbers of *statements*; of those that repeat one for many rows the first and the
    last.
    """
    alike = [re.sub(r"'[^']*'|\d+", "?", sql) for sql in statements]
    return [
        k
        for k in range(len(alike))
        if not alike[max(k - 1, 0)] == alike[k] == alike[min(k + 1, len(alike) - 1)] or k == 0
    ]


def writes(sql: str) -> bool:
    return sql == "COMMIT" or "wal_checkpoint" in sql


def killed(point: dict[str, Any]) -> tuple[int, ...]:
    return (signal.SIGXFSZ, signal.SIGKILL, 0) if "tear" in point else (signal.SIGKILL,)


def differences(found: dict[str, Any], expected: dict[str, Any]) -> dict[str, Any]:
    """Return what is wrong, and what is there or not there against the undisturbed life."""
    differing = {
        name: {
            "more": [r for r in rows if r not in expected["found"][name]],
            "less": [r for r in expected["found"][name] if r not in rows],
        }
        for name, rows in found["found"].items()
        if rows != expected["found"][name]
    }
    return {**differing, **found["wrong"]}
