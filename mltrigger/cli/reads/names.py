"""The names in a store, read from its file alone: a shell asks for them at each TAB."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from urllib.parse import quote

_SCHEME = "sqlite:///"
_NAMES = {
    "subscriptions": "SELECT name FROM subscription WHERE bound = 1 AND role = 'live'",
    "topics": "SELECT name FROM topic",
    "models": "SELECT DISTINCT name FROM model_version",
}


def names_in_file(url: str | None, what: str) -> list[str] | None:
    """Return the sorted names, ``None`` if only a whole bus can tell them.

    It imports no bus, which would take most of the time that a shell has. It makes, changes and
    locks nothing.
    """
    named = url or os.environ.get("MLTRIGGER_URL") or f"{_SCHEME}mltrigger.db"
    file = Path(named.removeprefix(_SCHEME))
    if not named.startswith(_SCHEME) or "?" in named or "%" in named or not file.is_file():
        return None
    import sqlite3

    # Without its log nobody has the file open, and SQLite would make one to read it.
    mode = "ro" if Path(f"{file}-wal").exists() else "ro&immutable=1"
    with (
        contextlib.suppress(sqlite3.Error),
        contextlib.closing(sqlite3.connect(f"file:{quote(str(file))}?mode={mode}", uri=True)) as db,
    ):
        return sorted(str(name) for (name,) in db.execute(_NAMES[what]))
    return None
