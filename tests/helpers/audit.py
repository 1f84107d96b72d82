"""What must be true of a store's file when everything has settled, whatever happened on the way."""

from __future__ import annotations

import sqlite3
from pathlib import Path

_FINAL = "outcome IN ('succeeded', 'dead', 'skipped')"


def rows(file: Path, sql: str) -> list[tuple[int, ...]]:
    """Ask the file itself, past the package."""
    connection = sqlite3.connect(file)
    try:
        return connection.execute(sql).fetchall()
    finally:
        connection.close()


def assert_each_event_succeeded_once(
    file: Path, events: int, *, also: tuple[str, ...] = ()
) -> None:
    """The file is whole; each of the *events* has one final outcome, ``succeeded``; other attempts
    only have outcomes in *also*.
    """
    assert rows(file, "PRAGMA integrity_check") == [("ok",)]
    assert rows(file, "SELECT count(*) FROM event") == [(events,)]
    assert rows(file, f"SELECT count(*), count(DISTINCT seq) FROM invocation WHERE {_FINAL}") == [
        (events, events)
    ]
    assert {outcome for (outcome,) in rows(file, "SELECT DISTINCT outcome FROM invocation")} <= {
        "succeeded",
        *also,
    }
    assert rows(
        file,
        "SELECT (SELECT count(*) FROM waiting), (SELECT count(*) FROM lease), (SELECT count(*) FROM"
        " dead_letter)",
    ) == [(0, 0, 0)]
